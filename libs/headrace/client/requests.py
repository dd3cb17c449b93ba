"""What people say, as requests: pure functions shared by the two clients."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict

from google.protobuf import field_mask_pb2, json_format, struct_pb2

from headrace.client.choices import choose
from headrace.client.compression import CompressionOptions, GradientFilter, ValueFilter, compression
from headrace.client.naming import deployment_name, model_name, pool_name, version_name
from headrace.client.selection import Larger, Registered, SelectionOptions, selection
from headrace.client.updates import (
    Consistency,
    OptimizerKind,
    ScheduleKind,
    UpdateOptions,
    clipping,
    server_optimizer,
    server_schedule,
    store_consistency,
)
from headrace.errors import InvalidArgument
from headrace.names import DeploymentName, ProjectName
from headrace.optimization.v1 import optimizer_pb2 as optimization
from headrace.parameters.v1 import stores_pb2 as stores
from headrace.scheduler.v1 import deployments_pb2 as deployments
from headrace.scheduler.v1 import jobs_pb2 as jobs
from headrace.training.v1 import workers_pb2 as training
from headrace.types.v1 import program_pb2

PrecisionKind = Literal["fp32", "bf16"]
StrategyKind = Literal["parameter_server", "all_reduce", "local_sgd"]
Durability = Literal["memory", "process", "disk"]
ObjectiveKind = Literal["latency", "size"]

_STRATEGIES = {
    "parameter_server": training.STRATEGY_PARAMETER_SERVER,
    "all_reduce": training.STRATEGY_ALL_REDUCE,
    "local_sgd": training.STRATEGY_LOCAL_SGD,
}
_PRECISIONS = {"fp32": training.PRECISION_FP32, "bf16": training.PRECISION_BF16}
_DURABILITIES = {
    "memory": stores.DURABILITY_MEMORY,
    "process": stores.DURABILITY_PROCESS,
    "disk": stores.DURABILITY_DISK,
}
_OBJECTIVES = {"latency": optimization.OBJECTIVE_LATENCY, "size": optimization.OBJECTIVE_SIZE}
_LARGEST = {"uint32": (1 << 32) - 1, "uint64": (1 << 64) - 1}


class TrainOptions(UpdateOptions, SelectionOptions, CompressionOptions, total=False):
    """How to train; `steps` and `batch_size` must be given."""

    steps: Required[int]  # optimizer steps in all
    batch_size: Required[int]  # examples per step over all workers
    workers: int  # 1; training processes
    straggler_factor: (
        float  # 0: none; with min_workers: one that takes so many times as long as the others is replaced
    )
    min_workers: int  # 0, all of them; the run begins, and goes on when others are lost, with so many
    strategy: (
        StrategyKind  # "parameter_server"; "all_reduce" and "local_sgd": the workers agree among themselves
    )
    shards: int | None  # 1, none with another strategy; processes that hold the parameters
    durability: (
        Durability  # "memory"; what an acknowledged push survives: "process" its process, "disk" its machine
    )
    average_every_steps: int  # 0; "local_sgd": steps from one mean of the workers' values to the next
    seed: int  # 0; of the initial values and the order of the data
    checkpoint_every_steps: int  # 0: never
    evaluate_every_steps: int  # 0: only at the end
    threads: int  # 1; per worker
    accumulate: int  # 1; micro-batches that a worker cuts its examples of a step into, to need less memory
    precision: PrecisionKind  # "fp32"; "bf16": model and loss compute with bfloat16 where that is enough
    pool: str  # "": pools/default
    job_id: str  # "": the scheduler makes one


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


# Long because it is a list: every parameter is a field of the request, checked and put in its place.
def train_job(
    project: str,
    program: program_pb2.Program,
    model: str,
    *,
    steps: int,
    batch_size: int,
    workers: int = 1,
    min_workers: int = 0,
    straggler_factor: float = 0.0,
    strategy: StrategyKind = "parameter_server",
    shards: int | None = None,
    average_every_steps: int = 0,
    consistency: Consistency = "bsp",
    staleness_bound: int = 0,
    backup_workers: int = 0,
    durability: Durability = "memory",
    compress_gradients: GradientFilter = "none",
    compress_values: ValueFilter = "none",
    top_k_density: float = 0.0,
    significance_threshold: float = 0.0,
    optimizer: OptimizerKind = "adamw",
    update: str = "",
    update_config: Mapping[str, Any] | None = None,
    learning_rate: float = 1e-3,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
    schedule: ScheduleKind = "constant",
    warmup_steps: int = 0,
    decay_steps: int = 0,
    decay_factor: float = 0.0,
    learning_rate_floor: float = 0.0,
    seed: int = 0,
    checkpoint_every_steps: int = 0,
    evaluate_every_steps: int = 0,
    patience: int = 0,
    minimum_improvement: float = 0.0,
    metric: str = "",
    metric_best: Larger | None = None,
    register: Registered | None = None,
    threads: int = 1,
    accumulate: int = 1,
    precision: PrecisionKind = "fp32",
    pool: str = "",
    job_id: str = "",
) -> jobs.CreateJobRequest:
    """Return the request for a training job; see `TrainOptions`.

    Raises:
        InvalidArgument: A value that no service could take.
    """
    rule = server_optimizer(optimizer, learning_rate, momentum, weight_decay, nesterov, update, update_config)
    rates = server_schedule(
        schedule,
        steps=_whole("steps", steps, least=1, kind="uint64"),
        warmup_steps=_whole("warmup_steps", warmup_steps, kind="uint64"),
        decay_steps=_whole("decay_steps", decay_steps, kind="uint64"),
        decay_factor=decay_factor,
        floor=learning_rate_floor,
    )
    rule.maximum_gradient_norm = clipping(clip_norm, consistency, backup_workers)
    if rates:
        rule.schedule.CopyFrom(rates)
    options = training.TrainingOptions(
        steps=_whole("steps", steps, least=1, kind="uint64"),
        batch_size=_whole("batch_size", batch_size, least=1),
        seed=_whole("seed", seed, kind="uint64"),
        checkpoint_every_steps=_whole("checkpoint_every_steps", checkpoint_every_steps, kind="uint64"),
        evaluate_every_steps=_whole("evaluate_every_steps", evaluate_every_steps, kind="uint64"),
        threads=_whole("threads", threads, least=1),
        accumulate=_whole("accumulate", accumulate, least=1),
        average_every_steps=_whole("average_every_steps", average_every_steps),
        precision=choose("precision", precision, _PRECISIONS),
        selection=selection(patience, minimum_improvement, metric, metric_best, register),
    )
    spec = jobs.TrainSpec(
        program=program,
        model=model_name(project, model),
        workers=_whole("workers", workers, least=1),
        min_workers=_whole("min_workers", min_workers),
        straggler_factor=straggler_factor,
        strategy=choose("strategy", strategy, _STRATEGIES),
        shards=0 if shards is None else _whole("shards", shards, least=1),
        consistency=store_consistency(consistency, staleness_bound, backup_workers, workers),
        durability=choose("durability", durability, _DURABILITIES),
        compression=compression(compress_gradients, compress_values, top_k_density, significance_threshold),
        optimizer=rule,
        options=options,
        staleness_bound=_whole("staleness_bound", staleness_bound),
        backup_workers=_whole("backup_workers", backup_workers),
    )
    return _create_job(project, jobs.Job(train=spec, pool=pool_name(pool)), job_id)


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
            max_bytes=None if max_bytes is None else _whole("max_bytes", max_bytes, kind="uint64"),
        ),
        objective=choose("objective", objective, _OBJECTIVES),
        calibration_examples=_whole("calibration_examples", calibration_examples),
        batch_sizes=[_whole("batch_sizes", size, least=1) for size in batch_sizes],
    )
    spec = jobs.OptimizeSpec(version=version_name(project, version), options=options)
    return _create_job(project, jobs.Job(optimize=spec, pool=pool_name(pool)), job_id)


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
            replicas=_whole("replicas", replicas, least=1),
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


def _create_job(project: str, job: jobs.Job, job_id: str) -> jobs.CreateJobRequest:
    return jobs.CreateJobRequest(
        parent=str(ProjectName(project)), job_id=job_id, job=job, request_id=new_request_id()
    )


def _whole(field: str, value: object, *, least: int = 0, kind: Literal["uint32", "uint64"] = "uint32") -> int:
    """Return `value` if the wire can carry it; the services decide what makes sense."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST[kind]:
        raise InvalidArgument(
            f"{field} is {value!r}; it must be a whole number of at least {least}", field=field
        )
    return value


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
