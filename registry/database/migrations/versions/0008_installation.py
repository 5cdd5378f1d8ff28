"""An installation has an identity, so that two of them on one weights store do not remove each other's bundles."""

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table("installation", sa.Column("id", sa.Text(), primary_key=True))
    op.bulk_insert(table, [{"id": uuid.uuid4().hex}])
