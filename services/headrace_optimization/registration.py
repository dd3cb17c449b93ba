"""Register: make the files of a pipeline a new version of the model, once."""

import hashlib
import uuid
from pathlib import Path

from headrace.errors import RequestIdReused
from headrace.names import VersionName
from headrace.optimization.report import Report
from headrace.optimization.v1.optimizer_pb2 import StartTaskRequest
from headrace.registry.client import RegistryClient
from headrace.registry.v1.models_pb2 import File, FileRole, Version
from headrace_optimization.core.result import version_labels, version_metrics
from headrace_optimization.pipeline import PLOT_FILE, REPORT_FILE
from headrace_optimization.wire import weights_of

KEY_LABEL = "optimization"


def register(
    registry: RegistryClient, source: Version, report: Report, folder: Path, request: StartTaskRequest
) -> Version:
    """Upload the files of `folder` and make the version; return it.

    When an earlier attempt of the same work made a version already, that one is returned: its measurements are as good as ours.

    Args:
        source: The version that was optimized; its weights and program are carried over.
    """
    name, weights, key = VersionName.parse(source.name), weights_of(source), work_key(request)
    version = Version(
        files=[
            File(path=weights.path, artifact=weights.artifact, role=weights.role),
            *_upload(registry, name.project, report, folder),
        ],
        serving_file=report.candidate(report.pick.candidate).file,
        program=source.program,
        source_version=source.name,
        job=request.job,
        metrics=version_metrics(report),
        labels=version_labels(report) | {KEY_LABEL: key},
    )
    try:
        return registry.create_version(str(name.parent), version, request_id=key, create_model=False)
    except RequestIdReused:
        earlier = find_registered(registry, request)
        if earlier is None:  # it was deleted since
            raise
        return earlier


def find_registered(registry: RegistryClient, request: StartTaskRequest) -> Version | None:
    """Find the version that an earlier attempt of the same work made, if there is one."""
    source, key = VersionName.parse(request.version), work_key(request)
    for version in registry.list_versions(str(source.parent)):
        if VersionName.parse(version.name) <= source:
            return None  # newest first: all others are older than what they would be made from
        if version.labels.get(KEY_LABEL) == key:
            return version
    return None


def work_key(request: StartTaskRequest) -> str:
    """Name the work of a request, whatever its attempt: by its job (or task, started by hand), version and options."""
    options = hashlib.sha256(request.options.SerializeToString(deterministic=True)).hexdigest()
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{request.job or request.name} {request.version} {options}"))


def _upload(registry: RegistryClient, project: str, report: Report, folder: Path) -> list[File]:
    roles = {candidate.file: FileRole.FILE_ROLE_ONNX for candidate in report.candidates}
    roles |= {REPORT_FILE: FileRole.FILE_ROLE_REPORT, PLOT_FILE: FileRole.FILE_ROLE_PLOT}
    return [
        File(path=path, artifact=registry.upload_file(project, folder / path), role=role)
        for path, role in roles.items()
    ]
