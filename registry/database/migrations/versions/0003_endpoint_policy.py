"""Endpoints keep sampling defaults, best-of and what a regression does."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("endpoints", sa.Column("policy", sa.Text(), nullable=False, server_default="{}"))
