"""The registry's rules over a real database in a file."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace_registry.repository import SqlDatabase, SqlRepository


@pytest.fixture
def now() -> datetime:
    return datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[SqlRepository]:
    """A repository inside one long transaction."""
    database = SqlDatabase(f"sqlite:///{tmp_path}/registry.db")
    with database.writing() as repository:
        yield repository
    database.close()
