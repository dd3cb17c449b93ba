"""Remembering the first answer to a request id, in the same transaction as what it changed.

    requests = RememberedRequests(metadata)

    def CreateModel(self, request, context):
        with writing(self._engine) as connection:
            answer = requests.remember(
                connection, now=time.time(), method="CreateModel", project=project,
                request_id=request.request_id, body=request.SerializeToString(deterministic=True),
                produce=lambda: self._create(connection, request).SerializeToString(),
            )
        return Model.FromString(answer)

A service creates the table in a migration: `op.create_table(RememberedRequests.TABLE, *RememberedRequests.columns())`.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Double,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    text,
)

from headrace.errors import InvalidArgument, RequestIdReused

KEEP_S = 24 * 3600.0  # a caller that repeats a request after a day is not the same attempt any more
MAX_REQUEST_ID = 128  # characters, as the protos promise: a UUID has 36


class RememberedRequests:
    """The table of first answers."""

    TABLE = "remembered_requests"

    def __init__(self, metadata: MetaData) -> None:
        self._table = Table(self.TABLE, metadata, *self.columns())

    @staticmethod
    def columns() -> list[Column[Any]]:
        """Return the columns, new ones at each call, as SQLAlchemy wants them."""
        return [
            Column("method", String(200), primary_key=True),
            Column("project", String(63), primary_key=True),
            Column("request_id", String(200), primary_key=True),
            Column("body_sha256", LargeBinary(32), nullable=False),
            Column("answer", LargeBinary, nullable=False),
            Column("created_at", Double, nullable=False, index=True),  # seconds since 1970
        ]

    def remember(
        self,
        connection: Connection,
        *,
        now: float,
        method: str,
        project: str,
        request_id: str,
        body: bytes,
        produce: Callable[[], bytes],
    ) -> bytes:
        """Return the answer to a request: the remembered one, or what `produce` returns, which is then remembered.

        Args:
            connection: In a transaction that writes; `produce` works in the same one.
            now: Seconds since 1970.
            request_id: The caller's; empty means that this request is not repeated, so nothing is remembered.
            body: The serialized request.
        Raises:
            InvalidArgument: The id cannot be one.
            RequestIdReused: It came before with another body.
        """
        check_request_id(request_id)
        if not request_id:
            return produce()
        key = {"method": method, "project": project, "request_id": request_id}
        self._lock(connection, key)
        digest = hashlib.sha256(body).digest()
        found = self._find(connection, key)
        if found is not None:
            if found[0] != digest:
                raise _reused(method, request_id)
            return found[1]
        answer = produce()
        connection.execute(
            insert(self._table).values(**key, body_sha256=digest, answer=answer, created_at=now)
        )
        return answer

    def _find(self, connection: Connection, key: dict[str, str]) -> tuple[bytes, bytes] | None:
        """Return digest of the body, and answer."""
        columns = self._table.c
        same = (columns[name] == value for name, value in key.items())
        row = connection.execute(select(columns.body_sha256, columns.answer).where(*same)).one_or_none()
        return None if row is None else (bytes(row.body_sha256), bytes(row.answer))

    def prune(self, connection: Connection, *, now: float, keep_s: float = KEEP_S) -> int:
        """Forget answers older than `keep_s`; return how many."""
        return connection.execute(delete(self._table).where(self._table.c.created_at < now - keep_s)).rowcount

    @staticmethod
    def _lock(connection: Connection, key: dict[str, str]) -> None:
        """Let the second of two simultaneous requests wait for the first; on SQLite all writers wait anyway."""
        if connection.dialect.name == "postgresql":
            number = int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], signed=True)
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def check_request_id(request_id: str) -> None:
    """Check an idempotency key; empty means none.

    Raises:
        InvalidArgument: It is too long, or holds the character NUL, which not every database can keep.
    """
    if len(request_id) > MAX_REQUEST_ID:
        raise InvalidArgument(
            f"request_id has {len(request_id)} characters; use at most {MAX_REQUEST_ID}", field="request_id"
        )
    if "\0" in request_id:
        raise InvalidArgument("request_id holds a NUL character; leave it out", field="request_id")


def _reused(method: str, request_id: str) -> RequestIdReused:
    return RequestIdReused(
        f"request_id {request_id!r} was used for another {method} request; give every new request an id of its own",
        field="request_id",
    )
