"""Messages of `headrace.registry.v1` to values of the core, and back."""

from datetime import datetime

from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.errors import InvalidArgument
from headrace.names import ArtifactName, JobName, VersionName
from headrace.registry.v1 import artifacts_pb2, models_pb2
from headrace.types.v1 import program_pb2
from headrace_registry.core.resources import Artifact, Draft, File, FileRole, Model, Program, Version


def model_message(model: Model) -> models_pb2.Model:
    """Put a model on the wire."""
    return models_pb2.Model(
        name=str(model.name),
        description=model.description,
        aliases={alias: str(model.name.version(number)) for alias, number in model.aliases.items()},
        create_time=timestamp(model.create_time),
        update_time=timestamp(model.update_time),
        etag=model.etag,
    )


def version_message(version: Version) -> models_pb2.Version:
    """Put a version on the wire."""
    draft = version.draft
    return models_pb2.Version(
        name=str(version.name),
        files=[_file_message(file) for file in draft.files],
        serving_file=draft.serving_file,
        program=json_format.Parse(draft.program.document, program_pb2.Program()) if draft.program else None,
        source_version=str(draft.source_version or ""),
        job=str(draft.job or ""),
        metrics=draft.metrics,
        labels=draft.labels,
        create_time=timestamp(version.create_time),
    )


def _file_message(file: File) -> models_pb2.File:
    return models_pb2.File(
        path=file.path,
        artifact=str(file.artifact),
        size_bytes=file.size_bytes,
        role=models_pb2.FileRole.ValueType(file.role.value),
    )


def artifact_message(artifact: Artifact) -> artifacts_pb2.Artifact:
    """Put the facts about an artifact on the wire."""
    return artifacts_pb2.Artifact(
        name=str(artifact.name), size_bytes=artifact.size_bytes, create_time=timestamp(artifact.create_time)
    )


def timestamp(moment: datetime) -> Timestamp:
    """Put a moment on the wire."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def draft(message: models_pb2.Version) -> Draft:
    """Read what a caller says of a new version; output-only fields are ignored, as AIP-203 asks.

    Raises:
        InvalidArgument: A name is not one, or a choice was not made; `field` says where.
    """
    source, job = message.source_version, message.job
    return Draft(
        files=[_file(file, f"version.files[{index}]") for index, file in enumerate(message.files)],
        serving_file=message.serving_file,
        program=_program(message.program) if message.HasField("program") else None,
        source_version=VersionName.parse(source, field="version.source_version") if source else None,
        job=JobName.parse(job, field="version.job") if job else None,
        metrics=dict(message.metrics),
        labels=dict(message.labels),
    )


def _file(message: models_pb2.File, field: str) -> File:
    artifact = ArtifactName.parse(message.artifact, field=f"{field}.artifact")
    return File(message.path, artifact, _role(message.role, f"{field}.role"))


def _role(number: int, field: str) -> FileRole:
    try:
        return FileRole(number)
    except ValueError:
        known = ", ".join(f"FILE_ROLE_{role.name}" for role in FileRole)
        raise InvalidArgument(f"{field} {number} is not a role; use {known}", field=field) from None


def _program(message: program_pb2.Program) -> Program:
    source, archive = message.WhichOneof("source"), None
    if source is None:
        raise InvalidArgument(
            "version.program names neither a module nor an archive; name one, or leave the program out",
            field="version.program",
        )
    if source == "archive":
        archive = ArtifactName.parse(message.archive.artifact, field="version.program.archive.artifact")
    try:
        return Program(json_format.MessageToJson(message, indent=None, sort_keys=True), archive)
    except json_format.SerializeToJsonError as error:
        raise InvalidArgument(
            f"version.program.config is not JSON: {error}", field="version.program.config"
        ) from error
