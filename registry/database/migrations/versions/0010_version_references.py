"""Versions keep the reference of their probabilities, with which the fidelity trial compares the engine."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "version_references",
        sa.Column("version", sa.Text(), sa.ForeignKey("versions.id"), primary_key=True),
        sa.Column("document", sa.Text(), nullable=False),
    )
