"""Make the first tables. Written once, never changed: `headrace_registry.tables` tells what they became."""

import sqlalchemy as sa
from alembic import op

from headrace.database import RememberedRequests

revision = "0001"
down_revision = None

ID = sa.String(63).with_variant(sa.String(63, collation="C"), "postgresql")
DIGEST = sa.String(64)


def upgrade() -> None:
    """Make them."""
    op.create_table(
        "models",
        sa.Column("project", ID, primary_key=True),
        sa.Column("model", ID, primary_key=True),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.Column("update_time", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "version_numbers",
        sa.Column("project", ID, primary_key=True),
        sa.Column("model", ID, primary_key=True),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "project_artifacts",
        sa.Column("project", ID, primary_key=True),
        sa.Column("digest", DIGEST, primary_key=True),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
    )
    _create_versions()
    op.create_table(RememberedRequests.TABLE, *RememberedRequests.columns())


def _create_versions() -> None:
    op.create_table(
        "versions",
        sa.Column("project", ID, primary_key=True),
        sa.Column("model", ID, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("serving_file", sa.String(100), nullable=False),
        sa.Column("program", sa.Text),
        sa.Column("program_archive", DIGEST),
        sa.Column("source_version", sa.Text),
        sa.Column("job", sa.Text),
        sa.Column("metrics", sa.JSON, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("create_time", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
    )
    op.create_table(
        "version_files",
        sa.Column("project", ID, primary_key=True),
        sa.Column("model", ID, primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("path", sa.String(100), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("role", sa.Integer, nullable=False),
        _version_key(),
        sa.ForeignKeyConstraint(
            ["project", "digest"], ["project_artifacts.project", "project_artifacts.digest"]
        ),
    )
    op.create_table(
        "aliases",
        sa.Column("project", ID, primary_key=True),
        sa.Column("model", ID, primary_key=True),
        sa.Column("alias", ID, primary_key=True),
        sa.Column("number", sa.BigInteger, nullable=False),
        _version_key(),
    )


def _version_key() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["project", "model", "number"], ["versions.project", "versions.model", "versions.number"]
    )


def downgrade() -> None:
    """Drop them, those first that point to others."""
    for table in (
        RememberedRequests.TABLE,
        "aliases",
        "version_files",
        "versions",
        "project_artifacts",
        "version_numbers",
        "models",
    ):
        op.drop_table(table)
