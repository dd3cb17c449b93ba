"""The tables of the scheduler's database.

A row is the core's own object as JSON in `body`; the columns beside it are what is searched for. `spec` is the job's
specification, a serialized `headrace.scheduler.v1.Job`. `live` jobs are those that the scheduler still has to think about.
"""

import sqlalchemy as sa

from headrace.database import RememberedRequests

metadata = sa.MetaData()

NAME = sa.String(200)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("project", sa.String(63), nullable=False),
    sa.Column("sequence", sa.BigInteger, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("live", sa.Boolean, nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Index("jobs_newest", "project", "sequence"),
    sa.Index("jobs_live", "live"),
)


def _records(name: str) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("name", NAME, primary_key=True),
        sa.Column("body", sa.Text, nullable=False),
    )


pools = _records("pools")
nodes = _records("nodes")
deployments = _records("deployments")
hosted = _records("hosted")

requests = RememberedRequests(metadata)
