"""Submissions and benchmarks carry a revision: their rows are changed by compare-and-set."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("submissions", sa.Column("row_revision", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("benchmarks", sa.Column("revision", sa.Integer(), nullable=False, server_default="0"))
