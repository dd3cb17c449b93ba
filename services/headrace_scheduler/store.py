"""The scheduler's memory on disk: the rows its state is rebuilt from."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, TypeVar

import sqlalchemy as sa
from pydantic import TypeAdapter
from sqlalchemy import Connection, Engine

from headrace.database import reading, writing
from headrace.names import project_of
from headrace_scheduler import schema
from headrace_scheduler.core.deployments import Deployment, Hosted
from headrace_scheduler.core.jobs import Job
from headrace_scheduler.core.machine import Changes, Machine
from headrace_scheduler.core.nodes import Node, Pool, durable_node
from headrace_scheduler.core.tables import Change

Row = TypeVar("Row", Pool, Node, Deployment, Hosted)

DELETED = "DELETED"  # the state of a job that waits for its remnants to go; nobody sees it

_JOB = TypeAdapter(Job)


class Store:
    """Reads and writes rows; every write happens in a transaction that the caller opened with `writing`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def restore(self, machine: Machine, now: float) -> None:
        """Fill a new machine with what was written before."""
        with reading(self._engine) as connection:
            deployments = _all(connection, schema.deployments, Deployment)
            sequence = connection.execute(sa.select(sa.func.max(schema.jobs.c.sequence))).scalar() or 0
            machine.restore(
                pools=_all(connection, schema.pools, Pool),
                nodes=_all(connection, schema.nodes, Node),
                jobs=_live_jobs(connection),
                deployments=deployments,
                hosted=_all(connection, schema.hosted, Hosted),
                sequence=max([sequence, *(deployment.sequence for deployment in deployments)]),
                now=now,
            )

    def write(self, connection: Connection, changes: Changes) -> None:
        """Write what an event changed."""
        _write(connection, schema.pools, changes.pools)
        for node in changes.nodes:
            _write_row(connection, schema.nodes, node, lambda row: {"body": _to_json(durable_node(row))})
        _write(connection, schema.deployments, changes.deployments)
        _write(connection, schema.hosted, changes.hosted)
        for change in changes.jobs:
            _write_row(connection, schema.jobs, change, _job_columns)

    def find_job(self, name: str) -> Job | None:
        """Return a job, settled ones included."""
        with reading(self._engine) as connection:
            row = connection.execute(sa.select(schema.jobs).where(schema.jobs.c.name == name)).one_or_none()
        return _job(row) if row else None

    def list_jobs(self, project: str, before: int | None, limit: int) -> list[Job]:
        """List at most `limit` jobs of a project, newest first, those with a sequence number below `before`."""
        table = schema.jobs.c
        query = sa.select(schema.jobs).where(table.project == project, table.state != DELETED)
        if before is not None:
            query = query.where(table.sequence < before)
        with reading(self._engine) as connection:
            return [
                _job(row) for row in connection.execute(query.order_by(table.sequence.desc()).limit(limit))
            ]

    def delete_job(self, name: str) -> None:
        """Forget a settled job."""
        with writing(self._engine) as connection:
            connection.execute(sa.delete(schema.jobs).where(schema.jobs.c.name == name))

    def prune(self, now: float) -> None:
        """Forget old request ids."""
        with writing(self._engine) as connection:
            schema.requests.prune(connection, now=now)


def _live_jobs(connection: Connection) -> list[Job]:
    rows = connection.execute(
        sa.select(schema.jobs).where(schema.jobs.c.live).order_by(schema.jobs.c.sequence)
    )
    return [_job(row) for row in rows]


def _job(row: Any) -> Job:
    return _JOB.validate_python({**json.loads(row.body), "spec": row.spec})


def _job_columns(job: Job) -> dict[str, object]:
    return {
        "project": project_of(job.name),
        "sequence": job.sequence,
        "state": DELETED if job.deleted else job.state.value,
        "live": not job.settled,
        "spec": job.spec,
        "body": _to_json(replace(job, spec=b""), without="spec"),
    }


def _to_json(row: Any, without: str = "") -> str:
    values = asdict(row, dict_factory=_json_ready)
    values.pop(without, None)
    return json.dumps(values)


def _json_ready(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in items}


def _all(connection: Connection, table: sa.Table, kind: type[Row]) -> list[Row]:
    adapter = TypeAdapter(kind)
    rows = connection.execute(sa.select(table).order_by(table.c.name))
    return [adapter.validate_python(json.loads(row.body)) for row in rows]


def _write(connection: Connection, table: sa.Table, changes: list[Change[Row]]) -> None:
    for change in changes:
        _write_row(connection, table, change, lambda row: {"body": _to_json(row)})


def _write_row(
    connection: Connection, table: sa.Table, change: Change[Any], columns: Callable[[Any], dict[str, object]]
) -> None:
    here = table.c.name == change.key
    if change.new is None:
        connection.execute(sa.delete(table).where(here))
    elif change.old is None:
        connection.execute(sa.insert(table).values(name=change.key, **columns(change.new)))
    else:
        connection.execute(sa.update(table).where(here).values(**columns(change.new)))
