"""The migrations and the tables of the code agree."""

import importlib
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import inspect

from headrace.database import migrate, open_engine, writing
from headrace_registry.tables import metadata


def test_the_migrations_make_the_tables_of_the_code(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/registry.db")
    migrate(engine, "headrace_registry")

    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_the_first_migration_can_be_taken_back(tmp_path: Path) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/registry.db")
    migrate(engine, "headrace_registry")
    first = importlib.import_module("headrace_registry.migrations.versions.v0001_first_tables")

    with writing(engine) as connection, Operations.context(MigrationContext.configure(connection)):
        first.downgrade()

    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()
