"""Rollouts say by a value why the candidate was taken back; until now only the text of the reason did."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("withdrawal", sa.Text(), nullable=True))
    op.execute("UPDATE rollouts SET withdrawal = 'superseded' WHERE reason LIKE 'superseded by %'")
