"""Make the first tables. Written once, never changed: `headrace_scheduler.schema` tells what they became."""

import sqlalchemy as sa
from alembic import op

from headrace.database import RememberedRequests

revision = "0001"
down_revision = None

NAME = sa.String(200)


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "jobs",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("project", sa.String(63), nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("live", sa.Boolean, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )
    op.create_index("jobs_newest", "jobs", ["project", "sequence"])
    op.create_index("jobs_live", "jobs", ["live"])
    for table in ("pools", "nodes", "deployments", "hosted"):
        op.create_table(
            table,
            sa.Column("name", NAME, primary_key=True),
            sa.Column("body", sa.Text, nullable=False),
        )
    op.create_table(RememberedRequests.TABLE, *RememberedRequests.columns())


def downgrade() -> None:
    """Drop them."""
    for table in (RememberedRequests.TABLE, "hosted", "deployments", "nodes", "pools", "jobs"):
        op.drop_table(table)
