"""Between messages and what a rank works with."""

from collections.abc import Sequence

from headrace.errors import InvalidArgument
from headrace.names import ArtifactName, JobName, ModelName, Name, StoreName, TaskName
from headrace.rpc.addresses import split_address
from headrace.training.options import check_options
from headrace.training.v1.workers_pb2 import (
    Device,
    Direction,
    Precision,
    SetMembersRequest,
    StartTaskRequest,
    Strategy,
)
from headrace.training.v1.workers_pb2 import Selection as SelectionMessage
from headrace_optimizers.bounds import check
from headrace_optimizers.loading import checker
from headrace_optimizers.wire import optimizer_from_proto, schedule_from_proto
from headrace_training.core.placement import Asked
from headrace_training.core.run import Run
from headrace_training.core.selection import Best, Selection

MAX_WORLD_SIZE = 1024


def uses_store(strategy: Strategy.ValueType) -> bool:
    """Tell whether the parameters live in a store."""
    return strategy in (Strategy.STRATEGY_UNSPECIFIED, Strategy.STRATEGY_PARAMETER_SERVER)


def check_request(request: StartTaskRequest, allowed_updates: Sequence[str] = ()) -> None:
    """Check all of a request that can be checked without running it.

    Args:
        allowed_updates: Modules whose optimizers may run in a rank.
    Raises:
        ProgramNotAllowed: Its optimizer may not run here.
        InvalidArgument: A field is wrong; the error names it.
    """
    task = TaskName.parse(request.name)
    if request.strategy not in Strategy.values():
        known = ", ".join(name for name in Strategy.keys() if not name.endswith("UNSPECIFIED"))  # noqa: SIM118 - not a dict
        raise InvalidArgument(f"strategy is {request.strategy}; use {known}", field="strategy")
    _check_project(task.project, _names(request))
    _check_least(1, epoch=request.epoch, world_size=request.world_size)
    if request.world_size > MAX_WORLD_SIZE:
        raise InvalidArgument(f"world_size {request.world_size} exceeds {MAX_WORLD_SIZE}", field="world_size")
    if request.elastic and request.options.fully_sharded:
        raise InvalidArgument(
            "elastic is not for fully sharded runs: with a rank a part of the model is gone; leave it out",
            field="elastic",
        )
    if request.rank >= request.world_size and not request.elastic:
        raise InvalidArgument(
            f"rank {request.rank} is none of 0 to {request.world_size - 1}; ranks count from 0", field="rank"
        )
    if uses_store(request.strategy):
        _check_shards(request)
    else:
        _check_storeless(request, allowed_updates)
    _check_start(request)


def check_members(request: SetMembersRequest) -> None:
    """Check who the members of a run shall be.

    Raises:
        InvalidArgument: A field is wrong; the error names it.
    """
    task = TaskName.parse(request.name)
    lead = TaskName.parse(request.lead.task, field="lead.task")
    _check_project(task.project, {"lead.task": lead})
    _check_address(request.lead.address, "lead.address")
    _check_least(1, epoch=request.epoch, generation=request.generation)
    members = list(request.members)
    if not members or members != sorted(set(members)) or len(members) > MAX_WORLD_SIZE:
        raise InvalidArgument(
            f"members is {members[:20]}; give 1 to {MAX_WORLD_SIZE} ranks, ascending, each once",
            field="members",
        )


def read_run(request: StartTaskRequest) -> Run:
    """Return what the rank has to do; the request has been checked."""
    options, best = request.options, request.best
    return Run(
        steps=options.steps,
        batch_size=options.batch_size,
        seed=options.seed,
        rank=request.rank,
        world_size=request.world_size,
        start_step=request.start_step,
        checkpoint_every=options.checkpoint_every_steps,
        evaluate_every=options.evaluate_every_steps,
        accumulate=options.accumulate or 1,
        bf16=options.precision == Precision.PRECISION_BF16,
        checkpoint_activations=options.checkpoint_activations,
        compile_model=options.compile_model,
        fully_sharded=options.fully_sharded,
        selection=_read_selection(options.selection) if options.HasField("selection") else None,
        best=Best(best.step, best.metric, best.value) if request.HasField("best") else None,
    )


def read_device(request: StartTaskRequest) -> Asked:
    """Return what the rank shall compute on; the request has been checked."""
    devices: dict[Device.ValueType, Asked] = {Device.DEVICE_CPU: "cpu", Device.DEVICE_CUDA: "cuda"}
    return devices.get(request.options.device, "auto")


def _read_selection(selection: SelectionMessage) -> Selection:
    directions = {Direction.DIRECTION_MAX: True, Direction.DIRECTION_MIN: False}
    return Selection(
        metric=selection.metric,
        larger=directions.get(selection.direction),
        patience=selection.patience,
        minimum_improvement=selection.minimum_improvement,
    )


def _names(request: StartTaskRequest) -> dict[str, Name]:
    """Read every name of the request, by its field."""
    names: dict[str, Name] = {}
    if uses_store(request.strategy):
        names["store"] = StoreName.parse(request.store, field="store")
    if request.snapshot:
        names["snapshot"] = ArtifactName.parse(request.snapshot, field="snapshot")
    if request.lead.task:
        names["lead.task"] = TaskName.parse(request.lead.task, field="lead.task")
    if request.model:
        names["model"] = ModelName.parse(request.model, field="model")
    if request.HasField("best"):
        names["best.artifact"] = ArtifactName.parse(request.best.artifact, field="best.artifact")
    if request.job:
        names["job"] = JobName.parse(request.job, field="job")
    if request.program.HasField("archive"):
        field = "program.archive.artifact"
        names[field] = ArtifactName.parse(request.program.archive.artifact, field=field)
    return names


def _check_project(project: str, names: dict[str, Name]) -> None:
    """Refuse names of other projects: the caller was let through for the task's project only."""
    for field, name in names.items():
        if not str(name).startswith(f"projects/{project}/"):
            raise InvalidArgument(
                f"{field} {name} is not of project {project!r}, as the task is; train within one project",
                field=field,
            )


def _check_shards(request: StartTaskRequest) -> None:
    if not request.shards:
        raise InvalidArgument("shards is empty; give the address of each shard of the store", field="shards")
    for address in request.shards:
        _check_address(address, "shards")
    if len(request.replicas) not in (0, len(request.shards)):
        raise InvalidArgument(
            f"replicas has {len(request.replicas)} addresses for {len(request.shards)} shards; give one for each, or leave it out",
            field="replicas",
        )
    for address in filter(None, request.replicas):
        _check_address(address, "replicas")


def _check_storeless(request: StartTaskRequest, allowed_updates: Sequence[str]) -> None:
    """Check what a run without a parameter server needs, and that it has nothing of one."""
    for field in ("store", "shards", "replicas"):
        if getattr(request, field):
            raise InvalidArgument(
                f"{field} is for STRATEGY_PARAMETER_SERVER; leave it out with {Strategy.Name(request.strategy)}",
                field=field,
            )
    optimizer_from_proto(request.optimizer, checker(allowed_updates))
    schedule_from_proto(request.optimizer.schedule)
    _check_clipping(request)
    _check_sharded(request)
    if bool(request.start_step) != bool(request.snapshot):
        raise InvalidArgument(
            f"start_step is {request.start_step} and snapshot {request.snapshot!r}; give both or neither",
            field="snapshot",
        )
    if request.world_size > 1 and not request.elastic:
        if not request.lead.task:
            raise InvalidArgument("lead.task is empty; name the task of rank 0", field="lead.task")
        _check_address(request.lead.address, "lead.address")


def _check_sharded(request: StartTaskRequest) -> None:
    kind = request.optimizer.WhichOneof("kind")
    if request.options.fully_sharded and kind in ("lamb", "registered"):
        raise InvalidArgument(
            f"optimizer.{kind} needs whole tensors, of which a fully sharded run has none; use sgd, adam, adamw or adagrad",
            field=f"optimizer.{kind}",
        )


def _check_clipping(request: StartTaskRequest) -> None:
    field, norm = "optimizer.maximum_gradient_norm", request.optimizer.maximum_gradient_norm
    check(field, norm, "0 (no clipping) or more", norm >= 0)
    clips = request.strategy == Strategy.STRATEGY_ALL_REDUCE
    check(field, norm, "0 unless strategy is STRATEGY_ALL_REDUCE", clips or norm == 0)


def _check_address(address: str, field: str) -> None:
    try:
        split_address(address)
    except ValueError as error:
        raise InvalidArgument(f"{field} has {address!r}, which {error}", field=field) from error


def _check_start(request: StartTaskRequest) -> None:
    check_options(request.options, request.world_size, request.strategy)
    if request.start_step > request.options.steps:
        raise InvalidArgument(
            f"start_step {request.start_step} is beyond the last of {request.options.steps} steps",
            field="start_step",
        )


def _check_least(least: int, **values: int) -> None:
    for field, value in values.items():
        if value < least:
            raise InvalidArgument(f"{field} is {value}; it must be {least} or more", field=field)
