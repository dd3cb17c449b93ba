"""Opening a database so that what it acknowledges is on the disk."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from headrace.errors import HeadraceError, InvalidArgument, StorageFull, Unavailable
from headrace.folder import claimed

# Longest wait for another writer of the same SQLite file; a write takes milliseconds.
BUSY_TIMEOUT_MS = 10_000
POSTGRESQL_DISK_FULL = "53100"


def open_engine(url: str) -> Engine:
    """Open the database at `url`, creating a SQLite file and its folder if they are missing.

    SQLite runs in WAL mode with synchronous=FULL: a commit that returned survives a power cut.

    Args:
        url: `sqlite:///relative.db`, `sqlite:////absolute.db`, or `postgresql+psycopg://user:password@host/name`.
    Raises:
        InvalidArgument: It is not such a URL.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, connect_args={"timeout": BUSY_TIMEOUT_MS / 1000})
    event.listen(engine, "connect", _set_up_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        parsed = None
    if parsed is None or parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InvalidArgument(  # The URL may hold a password, so it is not repeated.
            "the database URL is neither sqlite:///FILE nor postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        )
    return parsed.set(drivername="postgresql+psycopg") if parsed.drivername == "postgresql" else parsed


def _set_up_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # The driver begins nothing by itself; `_begin_sqlite` does.
    cursor = connection.cursor()
    for setting in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
    ):
        cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    """Take the write lock at once: a transaction that read first might find that it cannot have it any more."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def claimed_by(owner: str, url: str, remedy: str) -> Iterator[None]:
    """Keep a SQLite database for this process alone, which believes that it knows what is in it; PostgreSQL is shared as it is.

    Args:
        owner: What the process is, for the message: "scheduler".
        url: As for `open_engine`.
        remedy: How to choose another database, for the message.
    Raises:
        FailedPrecondition: Another process has it, or its folder cannot be written to.
    """
    parsed = _parse(url)
    if parsed.get_backend_name() != "sqlite" or not parsed.database:
        yield
        return
    file = Path(parsed.database)
    with claimed(file.parent, f"{file.name}.lock", owner=owner, remedy=remedy):
        yield


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Run a transaction that changes something; it is on the disk when the block has ended.

    Raises:
        StorageFull: No room is left; nothing was changed.
        Unavailable: The database cannot be reached, or another writer holds it too long.
    """
    with _transaction(engine, writes=True) as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Run a transaction that only looks, at one moment's state; on SQLite it waits for no writer.

    Raises:
        Unavailable: The database cannot be reached.
    """
    with _transaction(engine, writes=False) as connection:
        yield connection


@contextmanager
def _transaction(engine: Engine, *, writes: bool) -> Iterator[Connection]:
    try:
        with engine.connect().execution_options(writes=writes) as connection, connection.begin():
            yield connection
    except OperationalError as error:
        raise _explained(error) or error from error


def _explained(error: OperationalError) -> HeadraceError | None:
    """Return what a caller can do about it; None if the fault is ours, such as a missing table."""
    sqlite = getattr(error.orig, "sqlite_errorcode", None)
    primary = None if sqlite is None else sqlite & 0xFF  # the upper bits say where it happened
    if primary == sqlite3.SQLITE_FULL or getattr(error.orig, "sqlstate", None) == POSTGRESQL_DISK_FULL:
        return StorageFull(
            "the disk of the database is full; nothing was changed; free some space and repeat"
        )
    if primary == sqlite3.SQLITE_BUSY:
        return Unavailable("the database is busy with another writer; try again", retry_after_s=1.0)
    if primary is None:  # PostgreSQL: the connection failed or the server is going down
        return Unavailable(
            "the database cannot be reached; check its URL and that it runs", retry_after_s=1.0
        )
    return None
