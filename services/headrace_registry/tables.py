"""The tables of the registry, as the newest migration leaves them."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Dialect,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

from headrace.database import RememberedRequests

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class UtcTime(TypeDecorator[datetime]):
    """A moment as microseconds since 1970: exact, and the same in every database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> int | None:  # noqa: ARG002 - SQLAlchemy's interface
        """Turn an aware datetime into microseconds."""
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Turn microseconds into an aware datetime."""
        return None if value is None else _EPOCH + timedelta(microseconds=value)


# PostgreSQL would sort ids by the rules of a language; pages must come in the same order everywhere.
ID = String(63).with_variant(String(63, collation="C"), "postgresql")
DIGEST = String(64)

metadata = MetaData()

models = Table(
    "models",
    metadata,
    Column("project", ID, primary_key=True),
    Column("model", ID, primary_key=True),
    Column("description", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    Column("update_time", UtcTime, nullable=False),
)

# Outlives the model: a number is never given again, not even to a model made anew under the same name.
version_numbers = Table(
    "version_numbers",
    metadata,
    Column("project", ID, primary_key=True),
    Column("model", ID, primary_key=True),
    Column("last", BigInteger, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("project", ID, primary_key=True),
    Column("model", ID, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("serving_file", String(100), nullable=False),
    Column("program", Text),  # JSON of headrace.types.v1.Program
    Column("program_archive", DIGEST),
    Column("source_version", Text),  # resource names
    Column("job", Text),
    Column("metrics", JSON, nullable=False),
    Column("labels", JSON, nullable=False),
    Column("create_time", UtcTime, nullable=False),
    ForeignKeyConstraint(["project", "model"], ["models.project", "models.model"]),
)

project_artifacts = Table(
    "project_artifacts",
    metadata,
    Column("project", ID, primary_key=True),
    Column("digest", DIGEST, primary_key=True),
    Column("size_bytes", BigInteger, nullable=False),
    Column("create_time", UtcTime, nullable=False),
)

version_files = Table(
    "version_files",
    metadata,
    Column("project", ID, primary_key=True),
    Column("model", ID, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("path", String(100), nullable=False),
    Column("digest", DIGEST, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("role", Integer, nullable=False),  # a core FileRole
    ForeignKeyConstraint(
        ["project", "model", "number"], ["versions.project", "versions.model", "versions.number"]
    ),
    ForeignKeyConstraint(["project", "digest"], ["project_artifacts.project", "project_artifacts.digest"]),
)

aliases = Table(
    "aliases",
    metadata,
    Column("project", ID, primary_key=True),
    Column("model", ID, primary_key=True),
    Column("alias", ID, primary_key=True),
    Column("number", BigInteger, nullable=False),
    ForeignKeyConstraint(
        ["project", "model", "number"], ["versions.project", "versions.model", "versions.number"]
    ),
)

remembered_requests = RememberedRequests(metadata)
