"""Submissions and benchmarks carry a revision and the process that drives them: rows are changed by compare-and-set.

Flow runs of the earlier release keep their leases: the run's id stands for its process until it ends.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table, column in (("submissions", "row_revision"), ("benchmarks", "revision")):
        op.add_column(table, sa.Column("driver", sa.Text(), nullable=True))
        op.add_column(table, sa.Column(column, sa.Integer(), nullable=False, server_default="0"))
    op.execute("UPDATE submissions SET driver = flow_run")
    op.execute("UPDATE benchmarks SET driver = flow_run")
