"""The repository of the core in SQL, for SQLite and PostgreSQL alike."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, Table, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from headrace.database import migrate, open_engine, reading, writing
from headrace.names import ArtifactName, ModelName, VersionName
from headrace_registry import rows
from headrace_registry.core.repository import Request
from headrace_registry.core.resources import Artifact, File, Model, Version
from headrace_registry.tables import (
    aliases,
    models,
    project_artifacts,
    remembered_requests,
    version_files,
    version_numbers,
    versions,
)


class SqlDatabase:
    """The database at a URL, brought up to date."""

    def __init__(self, url: str) -> None:
        self._engine: Engine = open_engine(url)
        migrate(self._engine, "headrace_registry")

    @contextmanager
    def reading(self) -> Iterator["SqlRepository"]:
        """Begin a transaction that only looks."""
        with reading(self._engine) as connection:
            yield SqlRepository(connection)

    @contextmanager
    def writing(self) -> Iterator["SqlRepository"]:
        """Begin a transaction that changes something, which is on the disk when the block has ended."""
        with writing(self._engine) as connection:
            yield SqlRepository(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class SqlRepository:
    """The facts, inside the transaction of `connection`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def add_model(self, model: Model) -> bool:
        """Add a model; return False if its name is taken."""
        return self._insert_new(models, rows.model_values(model))

    def find_model(self, name: ModelName) -> Model | None:
        """Return a model with its aliases."""
        return self._model(select(models).where(*_is(models, name)))

    def lock_model(self, name: ModelName) -> Model | None:
        """Return a model that nobody else changes, nor its versions, until this transaction ends."""
        return self._model(select(models).where(*_is(models, name)).with_for_update())

    def _model(self, query: Select[Any]) -> Model | None:
        return next(iter(self._with_aliases(self._connection.execute(query).all())), None)

    def models(self, project: str, after: str | None, limit: int) -> Sequence[Model]:
        """Return up to `limit` models of the project in the order of their ids, those after the id `after`."""
        query = select(models).where(models.c.project == project).order_by(models.c.model).limit(limit)
        if after is not None:
            query = query.where(models.c.model > after)
        return self._with_aliases(self._connection.execute(query).all())

    def _with_aliases(self, found: Sequence[Row[Any]]) -> list[Model]:
        """Read the aliases of models of one project in one query."""
        if not found:
            return []
        of_them = (aliases.c.project == found[0].project, aliases.c.model.in_([row.model for row in found]))
        numbers: dict[str, dict[str, int]] = defaultdict(dict)
        for row in self._connection.execute(select(aliases).where(*of_them)):
            numbers[row.model][row.alias] = row.number
        return [rows.model_of(row, numbers[row.model]) for row in found]

    def replace_model(self, model: Model) -> None:
        """Write a model and its aliases over what there is."""
        self._connection.execute(
            update(models).where(*_is(models, model.name)).values(rows.model_values(model))
        )
        self._connection.execute(delete(aliases).where(*_is(aliases, model.name)))
        if model.aliases:
            key = rows.key_of(model.name)
            values = [key | {"alias": alias, "number": number} for alias, number in model.aliases.items()]
            self._connection.execute(insert(aliases), values)

    def remove_model(self, name: ModelName) -> None:
        """Remove a model that has no versions."""
        self._connection.execute(delete(models).where(*_is(models, name)))

    def take_number(self, model: ModelName) -> int:
        """Return the next version number of a locked model, from 1; none comes twice, whatever is deleted."""
        counter = _is(version_numbers, model)
        self._insert_new(version_numbers, rows.key_of(model) | {"last": 0})
        self._connection.execute(
            update(version_numbers).where(*counter).values(last=version_numbers.c.last + 1)
        )
        return int(self._connection.execute(select(version_numbers.c.last).where(*counter)).scalar_one())

    def add_version(self, version: Version) -> None:
        """Add a version under its number."""
        self._connection.execute(insert(versions).values(rows.version_values(version)))
        files = [rows.file_values(version.name, *item) for item in enumerate(version.draft.files)]
        self._connection.execute(insert(version_files), files)

    def find_version(self, name: VersionName) -> Version | None:
        """Return a version."""
        found = self._connection.execute(select(versions).where(*_is(versions, name))).all()
        return next(iter(self._with_files(name.parent, found)), None)

    def versions(self, model: ModelName, before: int | None, limit: int) -> Sequence[Version]:
        """Return up to `limit` versions from the highest number down, those below the number `before`."""
        query = select(versions).where(*_is(versions, model)).order_by(versions.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(versions.c.number < before)
        return self._with_files(model, self._connection.execute(query).all())

    def _with_files(self, model: ModelName, found: Sequence[Row[Any]]) -> list[Version]:
        """Read the files of versions of one model in one query."""
        of_them = (*_is(version_files, model), version_files.c.number.in_([row.number for row in found]))
        files: dict[int, list[File]] = defaultdict(list)
        query = select(version_files).where(*of_them).order_by(version_files.c.position)
        for row in self._connection.execute(query):
            files[row.number].append(rows.file_of(row))
        return [rows.version_of(row, files[row.number]) for row in found]

    def remove_version(self, name: VersionName) -> None:
        """Remove a version."""
        self._connection.execute(delete(version_files).where(*_is(version_files, name)))
        self._connection.execute(delete(versions).where(*_is(versions, name)))

    def add_artifact(self, artifact: Artifact) -> None:
        """Let a project see stored bytes; one that does already keeps its first time."""
        facts = {"size_bytes": artifact.size_bytes, "create_time": artifact.create_time}
        key = {"project": artifact.name.project, "digest": artifact.name.digest}
        self._insert_new(project_artifacts, key | facts)

    def find_artifact(self, name: ArtifactName) -> Artifact | None:
        """Return an artifact if its project sees it."""
        columns = project_artifacts.c
        query = select(project_artifacts).where(
            columns.project == name.project, columns.digest == name.digest
        )
        row = self._connection.execute(query).one_or_none()
        return rows.artifact_of(row) if row else None

    def artifact_sizes(self, project: str, digests: Collection[str]) -> Mapping[str, int]:
        """Return the sizes in bytes of those `digests` that the project sees."""
        columns = project_artifacts.c
        query = select(columns.digest, columns.size_bytes).where(
            columns.project == project, columns.digest.in_(digests)
        )
        return {row.digest: row.size_bytes for row in self._connection.execute(query)}

    def answer_once(self, request: Request, now: datetime, produce: Callable[[], bytes]) -> bytes:
        """Return the answer that `request` got before, or what `produce` returns, which is then remembered.

        Raises:
            RequestIdReused: The id came before with another body.
        """
        remembered_requests.prune(self._connection, now=now.timestamp())
        return remembered_requests.remember(
            self._connection,
            now=now.timestamp(),
            method=request.method,
            project=request.project,
            request_id=request.request_id,
            body=request.body,
            produce=produce,
        )

    def _insert_new(self, table: Table, values: rows.Values) -> bool:
        """Insert a row unless its key is taken; return whether it was inserted.

        Both dialects wait for a simultaneous insert of the same key, and then see it.
        """
        dialect = postgresql if self._connection.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(values).on_conflict_do_nothing()
        return (
            self._connection.execute(statement, execution_options={"preserve_rowcount": True}).rowcount == 1
        )


def _is(table: Table, name: ModelName | VersionName) -> list[ColumnElement[bool]]:
    """Select the rows of `table` that belong to `name`."""
    return [table.c[column] == value for column, value in rows.key_of(name).items()]
