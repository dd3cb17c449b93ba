"""Between messages and what the pipeline works with."""

from typing import Literal

from headrace.errors import InvalidArgument
from headrace.names import JobName, TaskName, VersionName
from headrace.optimization.report import Gates, Options
from headrace.optimization.v1.optimizer_pb2 import Objective, OptimizationOptions, Precision, StartTaskRequest
from headrace.registry.v1.models_pb2 import File, FileRole, Version
from headrace_optimization.core.options import (
    BATCH_SIZES,
    CALIBRATION_EXAMPLES,
    MAX_METRIC_DROP,
    check_options,
)

PrecisionName = Literal["fp32", "int8"]
_PRECISIONS: dict[Precision.ValueType, PrecisionName] = {
    Precision.PRECISION_FP32: "fp32",
    Precision.PRECISION_INT8: "int8",
}
_OBJECTIVES: dict[int, Literal["latency", "size"]] = {
    Objective.OBJECTIVE_UNSPECIFIED: "latency",
    Objective.OBJECTIVE_LATENCY: "latency",
    Objective.OBJECTIVE_SIZE: "size",
}


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


def read_options(message: OptimizationOptions) -> Options:
    """Fill in the defaults.

    Raises:
        InvalidArgument: Some value is unknown or out of bounds.
    """
    objective = _OBJECTIVES.get(message.objective)
    if objective is None:
        raise InvalidArgument(
            f"objective {message.objective} is unknown; use {', '.join(Objective.keys())}",
            field="options.objective",
        )
    options = Options(
        precisions=_read_precisions(message),
        gates=_read_gates(message),
        objective=objective,
        calibration_examples=message.calibration_examples or CALIBRATION_EXAMPLES,
        batch_sizes=tuple(message.batch_sizes) or BATCH_SIZES,
    )
    return check_options(options)


def _read_precisions(message: OptimizationOptions) -> tuple[PrecisionName, ...]:
    """Put fp32 first, which is always made, and each other once."""
    for number in message.precisions:
        if number not in _PRECISIONS:
            known = ", ".join(Precision.Name(known) for known in _PRECISIONS)
            raise InvalidArgument(f"precision {number} is unknown; use {known}", field="options.precisions")
    asked = {_PRECISIONS[number] for number in message.precisions or [Precision.PRECISION_INT8]} | {"fp32"}
    return tuple(name for name in _PRECISIONS.values() if name in asked)


def _read_gates(message: OptimizationOptions) -> Gates:
    gates = message.gates
    return Gates(
        max_metric_drop=gates.max_metric_drop if gates.HasField("max_metric_drop") else MAX_METRIC_DROP,
        min_speedup=gates.min_speedup if gates.HasField("min_speedup") else None,
        max_bytes=gates.max_bytes if gates.HasField("max_bytes") else None,
    )


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
