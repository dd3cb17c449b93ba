"""Between messages and what the pipeline works with."""

from headrace.errors import InvalidArgument
from headrace.names import JobName, TaskName, VersionName
from headrace.optimization.options import read_options
from headrace.optimization.v1.optimizer_pb2 import StartTaskRequest
from headrace.registry.v1.models_pb2 import File, FileRole, Version


def check_request(request: StartTaskRequest) -> None:
    """Check all of a request that can be checked without the registry.

    Raises:
        InvalidArgument: A name, the epoch or an option is wrong, or the names are of several projects.
    """
    task = TaskName.parse(request.name)
    projects = {"version": VersionName.parse(request.version, field="version").project}
    if request.job:
        projects["job"] = JobName.parse(request.job, field="job").project
    for field, project in projects.items():
        # The caller was let through for the task's project only.
        if project != task.project:
            raise InvalidArgument(
                f"{field} is of project {project!r}, the task of {task.project!r}; optimize within one project",
                field=field,
            )
    if request.epoch < 1:
        raise InvalidArgument("epoch 0 is not an attempt; the first one is 1", field="epoch")
    read_options(request.options)


def weights_of(version: Version) -> File:
    """Return the version's weights file.

    Raises:
        InvalidArgument: It has none, or no program to give them a meaning.
    """
    if not version.HasField("program"):
        raise InvalidArgument(
            f"{version.name} names no program; optimize a version that training made", field="version"
        )
    for file in version.files:
        if file.role == FileRole.FILE_ROLE_WEIGHTS:
            return file
    raise InvalidArgument(
        f"{version.name} has no WEIGHTS file; optimize a version that training made", field="version"
    )
