"""Benchmarks."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "benchmarks",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=True),
        sa.Column("suite", sa.Text(), nullable=False),
        sa.Column("plan_key", sa.Text(), nullable=False),
        sa.Column("plan", sa.Text(), nullable=False),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("numbers", sa.Text(), nullable=False),
        sa.Column("rows_uri", sa.Text(), nullable=False),
        sa.Column("baseline", sa.Text(), nullable=True),
        sa.Column("decision", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("run_url", sa.Text(), nullable=False),
        sa.Column("submission", sa.Text(), nullable=True),
        sa.Column("asked_by", sa.Text(), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("comparison", sa.Text(), nullable=False),
        sa.Column("studies", sa.Text(), nullable=False),
        sa.Column("flow_run", sa.Text(), nullable=True),
        sa.Column("runs", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("benchmarks_version", "benchmarks", ["version", "plan_key", "started_at"], unique=False)
    op.create_index("benchmarks_endpoint", "benchmarks", ["endpoint", "started_at"], unique=False)
    op.create_index("benchmarks_state", "benchmarks", ["state", "started_at"], unique=False)
    op.create_index("benchmarks_submission", "benchmarks", ["submission"], unique=False)
