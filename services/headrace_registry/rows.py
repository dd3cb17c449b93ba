"""Rows of the tables to values of the core, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Row

from headrace.names import ArtifactName, JobName, ModelName, VersionName
from headrace_registry.core.resources import Artifact, Draft, File, FileRole, Model, Program, Version

Values = dict[str, Any]


def key_of(name: ModelName | VersionName) -> Values:
    """Return the columns that hold `name`."""
    key: Values = {"project": name.project, "model": name.model}
    return key | ({"number": name.number} if isinstance(name, VersionName) else {})


def model_values(model: Model) -> Values:
    """Return the row of a model; its aliases have rows of their own."""
    return key_of(model.name) | {
        "description": model.description,
        "revision": model.revision,
        "create_time": model.create_time,
        "update_time": model.update_time,
    }


def model_of(row: Row[Any], aliases: Mapping[str, int]) -> Model:
    """Put a model together."""
    return Model(
        name=ModelName(row.project, row.model),
        description=row.description,
        create_time=row.create_time,
        update_time=row.update_time,
        aliases=aliases,
        revision=row.revision,
    )


def version_values(version: Version) -> Values:
    """Return the row of a version; its files have rows of their own."""
    draft = version.draft
    archive = draft.program.archive if draft.program else None
    return key_of(version.name) | {
        "serving_file": draft.serving_file,
        "program": draft.program.document if draft.program else None,
        "program_archive": archive.digest if archive else None,
        "source_version": str(draft.source_version) if draft.source_version else None,
        "job": str(draft.job) if draft.job else None,
        "metrics": dict(draft.metrics),
        "labels": dict(draft.labels),
        "create_time": version.create_time,
    }


def version_of(row: Row[Any], files: Sequence[File]) -> Version:
    """Put a version together."""
    archive = ArtifactName(row.project, row.program_archive) if row.program_archive else None
    draft = Draft(
        files=files,
        serving_file=row.serving_file,
        program=None if row.program is None else Program(row.program, archive),
        source_version=VersionName.parse(row.source_version) if row.source_version else None,
        job=JobName.parse(row.job) if row.job else None,
        metrics=row.metrics,
        labels=row.labels,
    )
    return Version(VersionName(row.project, row.model, row.number), draft, row.create_time)


def file_values(version: VersionName, position: int, file: File) -> Values:
    """Return the row of a file."""
    return key_of(version) | {
        "position": position,
        "path": file.path,
        "digest": file.artifact.digest,
        "size_bytes": file.size_bytes,
        "role": file.role.value,
    }


def file_of(row: Row[Any]) -> File:
    """Put a file together."""
    return File(row.path, ArtifactName(row.project, row.digest), FileRole(row.role), row.size_bytes)


def artifact_of(row: Row[Any]) -> Artifact:
    """Put the facts about an artifact together."""
    return Artifact(ArtifactName(row.project, row.digest), row.size_bytes, row.create_time)
