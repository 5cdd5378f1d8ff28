"""Answers that are nonsense count as bad events of their version. Rows of earlier releases count as sound."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("completions", sa.Column("nonsense", sa.Boolean(), nullable=False, server_default=sa.false()))
