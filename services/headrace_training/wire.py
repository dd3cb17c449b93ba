"""Between messages and what a rank works with."""

from headrace.errors import InvalidArgument
from headrace.names import ArtifactName, JobName, ModelName, Name, StoreName, TaskName
from headrace.rpc.addresses import split_address
from headrace.training.options import check_options
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace_training.core.run import Run

MAX_WORLD_SIZE = 1024


def check_request(request: StartTaskRequest) -> None:
    """Check all of a request that can be checked without running it.

    Raises:
        InvalidArgument: A field is wrong; the error names it.
    """
    task = TaskName.parse(request.name)
    _check_project(task.project, _names(request))
    _check_least(1, epoch=request.epoch, world_size=request.world_size)
    if request.world_size > MAX_WORLD_SIZE:
        raise InvalidArgument(f"world_size {request.world_size} exceeds {MAX_WORLD_SIZE}", field="world_size")
    if request.rank >= request.world_size:
        raise InvalidArgument(
            f"rank {request.rank} is none of 0 to {request.world_size - 1}; ranks count from 0", field="rank"
        )
    _check_shards(request)
    _check_start(request)


def read_run(request: StartTaskRequest) -> Run:
    """Return what the rank has to do; the request has been checked."""
    options = request.options
    return Run(
        steps=options.steps,
        batch_size=options.batch_size,
        seed=options.seed,
        rank=request.rank,
        world_size=request.world_size,
        start_step=request.start_step,
        checkpoint_every=options.checkpoint_every_steps,
        evaluate_every=options.evaluate_every_steps,
    )


def _names(request: StartTaskRequest) -> dict[str, Name]:
    """Read every name of the request, by its field."""
    names: dict[str, Name] = {"store": StoreName.parse(request.store, field="store")}
    if request.model:
        names["model"] = ModelName.parse(request.model, field="model")
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
        try:
            split_address(address)
        except ValueError as error:
            raise InvalidArgument(f"shards has {address!r}, which {error}", field="shards") from error


def _check_start(request: StartTaskRequest) -> None:
    check_options(request.options, request.world_size)
    if request.start_step > request.options.steps:
        raise InvalidArgument(
            f"start_step {request.start_step} is beyond the last of {request.options.steps} steps",
            field="start_step",
        )


def _check_least(least: int, **values: int) -> None:
    for field, value in values.items():
        if value < least:
            raise InvalidArgument(f"{field} is {value}; it must be {least} or more", field=field)
