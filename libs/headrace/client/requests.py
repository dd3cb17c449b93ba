"""What people say, as requests: pure functions shared by the two clients."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from google.protobuf import field_mask_pb2, json_format, struct_pb2

from headrace.client.choices import choose
from headrace.client.naming import deployment_name, pool_name, version_name
from headrace.client.numbers import whole
from headrace.errors import InvalidArgument
from headrace.names import DeploymentName, ProjectName
from headrace.optimization.v1 import optimizer_pb2 as optimization
from headrace.scheduler.v1 import deployments_pb2 as deployments
from headrace.scheduler.v1 import jobs_pb2 as jobs
from headrace.types.v1 import program_pb2

ObjectiveKind = Literal["latency", "size"]

_OBJECTIVES = {"latency": optimization.OBJECTIVE_LATENCY, "size": optimization.OBJECTIVE_SIZE}


class OptimizeOptions(TypedDict, total=False):
    """What to make of a version and what it must satisfy."""

    objective: ObjectiveKind  # "latency"
    max_metric_drop: float | None  # 0.01, absolute, in units of the program's goal
    min_speedup: float | None  # no bound; ratio to fp32
    max_bytes: int | None  # no bound; size of the file
    calibration_examples: int  # 0: the service's default
    batch_sizes: Sequence[int]  # (): the service's default; the first decides
    pool: str  # "": pools/default
    job_id: str  # "": the scheduler makes one


def new_request_id() -> str:
    """Return a fresh idempotency key; a retried call keeps the one it was built with."""
    return str(uuid.uuid4())


def module_program(path: str, config: Mapping[str, Any] | None) -> program_pb2.Program:
    """Return the program at `package.module:attribute`, an installed one."""
    return program_pb2.Program(module=path, config=_struct(config))


def archive_program(artifact: str, target: str, config: Mapping[str, Any] | None) -> program_pb2.Program:
    """Return the program `module:attribute` inside an uploaded source archive."""
    return program_pb2.Program(
        archive=program_pb2.Archive(artifact=artifact, object=target), config=_struct(config)
    )


def optimize_job(
    project: str,
    version: str,
    *,
    objective: ObjectiveKind = "latency",
    max_metric_drop: float | None = None,
    min_speedup: float | None = None,
    max_bytes: int | None = None,
    calibration_examples: int = 0,
    batch_sizes: Sequence[int] = (),
    pool: str = "",
    job_id: str = "",
) -> jobs.CreateJobRequest:
    """Return the request for an optimization job; see `OptimizeOptions`."""
    options = optimization.OptimizationOptions(
        precisions=[optimization.PRECISION_INT8],
        gates=optimization.Gates(
            max_metric_drop=max_metric_drop,
            min_speedup=min_speedup,
            max_bytes=None if max_bytes is None else whole("max_bytes", max_bytes, kind="uint64"),
        ),
        objective=choose("objective", objective, _OBJECTIVES),
        calibration_examples=whole("calibration_examples", calibration_examples),
        batch_sizes=[whole("batch_sizes", size, least=1) for size in batch_sizes],
    )
    spec = jobs.OptimizeSpec(version=version_name(project, version), options=options)
    return create_job(project, jobs.Job(optimize=spec, pool=pool_name(pool)), job_id)


def create_deployment(
    project: str, name: str, version: str, *, file: str = "", replicas: int = 1, pool: str = ""
) -> deployments.CreateDeploymentRequest:
    """Return the request that makes `name` serve `version`."""
    return deployments.CreateDeploymentRequest(
        parent=str(ProjectName(project)),
        deployment_id=DeploymentName.parse(deployment_name(project, name)).deployment,
        deployment=deployments.Deployment(
            version=version_name(project, version),
            file=file,
            replicas=whole("replicas", replicas, least=1),
            pool=pool_name(pool),
        ),
        request_id=new_request_id(),
    )


def update_deployment(created: deployments.CreateDeploymentRequest) -> deployments.UpdateDeploymentRequest:
    """Return the request that makes a deployment that is there serve what `created` asked for."""
    return deployments.UpdateDeploymentRequest(
        name=f"{created.parent}/deployments/{created.deployment_id}",
        deployment=created.deployment,
        update_mask=field_mask_pb2.FieldMask(paths=["version", "file", "replicas"]),
        request_id=new_request_id(),
    )


def create_job(project: str, job: jobs.Job, job_id: str) -> jobs.CreateJobRequest:
    """Return the request for a job; an empty id lets the scheduler make one."""
    return jobs.CreateJobRequest(
        parent=str(ProjectName(project)), job_id=job_id, job=job, request_id=new_request_id()
    )


def _struct(config: Mapping[str, Any] | None) -> struct_pb2.Struct | None:
    """Return `config` as a Struct; numbers become doubles, as JSON has it."""
    if not config:
        return None
    struct = struct_pb2.Struct()
    try:
        json_format.ParseDict(dict(config), struct)
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise InvalidArgument(
            f"the program's config {config!r} is not JSON: {error}", field="config"
        ) from error
    return struct
