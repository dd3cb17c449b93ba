"""Job specifications from outside: checked once, defaults filled in, so that everything behind this reads complete ones."""

from collections.abc import Iterator
from contextlib import contextmanager

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.names import (
    AliasName,
    ArtifactName,
    JobName,
    ModelName,
    PoolName,
    VersionName,
    check_id,
    parse_model_reference,
    project_of,
)
from headrace.optimization.options import read_options
from headrace.parameters.encoded import compression_from_proto
from headrace.parameters.v1 import stores_pb2
from headrace.scheduler.v1 import jobs_pb2
from headrace.training.options import check_options
from headrace.training.v1.workers_pb2 import Strategy
from headrace.types.v1.program_pb2 import Program
from headrace_scheduler.core.jobs import Job, JobKind
from headrace_scheduler.core.nodes import DEFAULT_POOL
from headrace_scheduler.updates import check_updates

DEFAULT_ATTEMPTS = 5
MAX_ATTEMPTS = 100
MAX_GANG = 1024  # workers, or shards
MAX_FACTOR = 1000.0
MAX_JOB_ID = 40  # leaves room for attempt, kind and rank in the names of tasks
DEFAULT_LEARNING_RATE = 1e-3  # of AdamW: what most of the literature starts from
MAX_SPEC_BYTES = 1 << 20  # a program's `config` is the only part that can be long

_REPLICATED = (stores_pb2.DURABILITY_REPLICA, stores_pb2.DURABILITY_REPLICA_DISK)


def new_job(project: str, job_id: str, wished: jobs_pb2.Job, now: float) -> Job:
    """Make a queued job of what a caller wishes.

    Raises:
        InvalidArgument: It could never run; the error names the field.
    """
    if len(check_id(job_id, "job_id")) > MAX_JOB_ID:
        raise InvalidArgument(
            f"job_id {job_id!r} is longer than {MAX_JOB_ID} characters; shorten it", field="job_id"
        )
    spec = complete(wished, project)
    train = spec.HasField("train")
    return Job(
        name=str(JobName(project, job_id)),
        spec=spec.SerializeToString(deterministic=True),
        kind=JobKind.TRAIN if train else JobKind.OPTIMIZE,
        pool=str(PoolName.parse(wished.pool or DEFAULT_POOL, field="job.pool")),
        workers=spec.train.workers if train else 1,
        shards=spec.train.shards if train else 0,
        min_workers=spec.train.min_workers,
        straggler_factor=spec.train.straggler_factor,
        replicated=spec.train.durability in _REPLICATED,
        max_attempts=_within(wished.max_attempts or DEFAULT_ATTEMPTS, MAX_ATTEMPTS, "job.max_attempts"),
        create_time=now,
    )


def check_shards(job: Job, shards: int) -> None:
    """Check that a job can have so many shards.

    Raises:
        InvalidArgument: It cannot have so many.
        FailedPrecondition: It has none.
    """
    train = jobs_pb2.Job.FromString(job.spec).train
    if not job.shards:
        raise FailedPrecondition(
            f"{job.name} keeps its parameters in no shards; only training jobs with STRATEGY_PARAMETER_SERVER have them"
        )
    train.shards = _within(shards, MAX_GANG, "shards")
    check_updates(train)


def complete(wished: jobs_pb2.Job, project: str) -> jobs_pb2.Job:
    """Return a job that has nothing but a checked specification with its defaults."""
    spec = jobs_pb2.Job()
    kind = wished.WhichOneof("spec")
    if kind == "train":
        spec.train.CopyFrom(wished.train)
        _complete_train(spec.train, project)
    elif kind == "optimize":
        spec.optimize.CopyFrom(wished.optimize)
        _check_optimize(spec.optimize, project)
    else:
        raise InvalidArgument("job has no specification; set `train` or `optimize`", field="job.spec")
    if spec.ByteSize() > MAX_SPEC_BYTES:
        raise InvalidArgument(
            f"job.spec has {spec.ByteSize()} bytes; at most {MAX_SPEC_BYTES} are taken: upload what is large as an artifact",
            field="job.spec",
        )
    return spec


def _complete_train(train: jobs_pb2.TrainSpec, project: str) -> None:
    _check_program(train.program, project)
    _check_project(str(ModelName.parse(train.model, field="job.train.model")), project, "job.train.model")
    train.workers = _within(train.workers or 1, MAX_GANG, "job.train.workers")
    train.consistency = train.consistency or stores_pb2.CONSISTENCY_BSP
    train.durability = train.durability or stores_pb2.DURABILITY_MEMORY
    if train.durability not in stores_pb2.Durability.values():
        known = "DURABILITY_MEMORY, _PROCESS, _DISK, _REPLICA or _REPLICA_DISK"
        raise _bad("job.train.durability", train.durability, f"use {known}")
    if train.durability in _REPLICATED and train.optimizer.WhichOneof("kind") == "registered":
        name = stores_pb2.Durability.Name(train.durability)
        rule = "an optimizer of your own runs without a replica; use DURABILITY_DISK or less"
        raise _bad("job.train.durability", name, rule)
    with _in_field("job.train"):
        compression_from_proto(train.compression)
    if not train.optimizer.WhichOneof("kind"):
        train.optimizer.adamw.learning_rate = DEFAULT_LEARNING_RATE
    check_updates(train)
    _complete_strategy(train)
    _check_elastic(train)
    with _in_field("job.train"):
        check_options(train.options, train.workers, train.strategy)


def _complete_strategy(train: jobs_pb2.TrainSpec) -> None:
    """Shards, and other ways than plain BSP to wait for each other, go with a parameter server alone."""
    train.strategy = train.strategy or Strategy.STRATEGY_PARAMETER_SERVER
    if train.strategy == Strategy.STRATEGY_PARAMETER_SERVER:
        train.shards = _within(train.shards or 1, MAX_GANG, "job.train.shards")
        return
    if train.strategy not in (Strategy.STRATEGY_ALL_REDUCE, Strategy.STRATEGY_LOCAL_SGD):
        known = "STRATEGY_PARAMETER_SERVER, STRATEGY_ALL_REDUCE or STRATEGY_LOCAL_SGD"
        raise _bad("job.train.strategy", train.strategy, f"use {known}")
    strategy = Strategy.Name(train.strategy)
    if train.shards:
        raise _bad("job.train.shards", train.shards, f"{strategy} has no shards; leave it out")
    if train.consistency != stores_pb2.CONSISTENCY_BSP:
        name = stores_pb2.Consistency.Name(train.consistency)  # check_updates lets only known ones pass
        raise _bad("job.train.consistency", name, "this is for STRATEGY_PARAMETER_SERVER; leave it out")
    if train.durability != stores_pb2.DURABILITY_MEMORY:
        name = stores_pb2.Durability.Name(train.durability)
        rule = f"{strategy} keeps its parameters in the workers; leave it out, and use checkpoints"
        raise _bad("job.train.durability", name, rule)
    if train.HasField("compression"):
        rule = f"{strategy} sends nothing to shards; leave it out"
        raise _bad("job.train.compression", train.compression, rule)
    if train.backup_workers:
        rule = f"{strategy} waits for all workers; leave it out"
        raise _bad("job.train.backup_workers", train.backup_workers, rule)
    norm = train.optimizer.maximum_gradient_norm
    if norm and train.strategy == Strategy.STRATEGY_LOCAL_SGD:
        rule = "with STRATEGY_LOCAL_SGD no step has a gradient of all workers to clip; leave it out"
        raise _bad("job.train.optimizer.maximum_gradient_norm", norm, rule)


def _check_elastic(train: jobs_pb2.TrainSpec) -> None:
    field, least = "job.train.min_workers", train.min_workers
    factor = train.straggler_factor
    if factor and not (least and 2 <= factor <= MAX_FACTOR):  # a NaN is within nothing
        raise _bad("job.train.straggler_factor", factor, f"0, or with min_workers 2 to {MAX_FACTOR:g}")
    if least > train.workers:
        raise _bad(field, least, f"at most the {train.workers} workers, or 0: all of them are needed")
    if least and train.options.fully_sharded:
        rule = "a part of a fully sharded model is gone with its worker; leave it out"
        raise _bad(field, least, rule)
    if least and train.backup_workers >= least:
        raise _bad("job.train.backup_workers", train.backup_workers, f"fewer than the min_workers, {least}")


def _check_program(program: Program, project: str) -> None:
    source = program.WhichOneof("source")
    entry = program.archive.object if source == "archive" else program.module
    if source is None:
        raise InvalidArgument(
            "job.train.program is not set; name a module or an archive", field="job.train.program"
        )
    module, colon, attribute = entry.partition(":")
    if not (module and colon and attribute):
        raise _bad(f"job.train.program.{source}", entry, "write package.module:attribute")
    if source == "archive":
        field = "job.train.program.archive.artifact"
        _check_project(str(ArtifactName.parse(program.archive.artifact, field=field)), project, field)


def _check_project(name: str, project: str, field: str) -> None:
    if project_of(name, field=field) != project:
        raise _bad(field, name, f"it must be in the job's own project, projects/{project}")


@contextmanager
def _in_field(field: str) -> Iterator[None]:
    """Let an error name its field as part of `field`."""
    try:
        yield
    except InvalidArgument as error:
        raise InvalidArgument(error.message, field=f"{field}.{error.field}") from None


def _check_optimize(optimize: jobs_pb2.OptimizeSpec, project: str) -> None:
    name = parse_model_reference(optimize.version, field="job.optimize.version")
    if not isinstance(name, VersionName | AliasName):
        raise _bad("job.optimize.version", optimize.version, "name a version: …/versions/1 or …@latest")
    _check_project(str(name), project, "job.optimize.version")
    with _in_field("job.optimize"):
        read_options(optimize.options)


def _within(value: int, most: int, field: str) -> int:
    if not 1 <= value <= most:
        raise _bad(field, value, f"it must be 1 to {most}")
    return value


def _bad(field: str, value: object, rule: str) -> InvalidArgument:
    return InvalidArgument(f"{field} is {value!r}; {rule}", field=field)
