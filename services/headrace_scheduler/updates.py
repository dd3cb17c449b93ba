"""The part of a training job that says how gradients become values: checked before anything is placed."""

import math
from collections.abc import Iterator
from itertools import chain

from headrace.errors import InvalidArgument
from headrace.parameters.v1 import schedule_pb2, stores_pb2
from headrace.scheduler.v1.jobs_pb2 import TrainSpec

# A field below `job.train`, its value, whether it may be so, and what it must be.
_Rule = tuple[str, float, bool, str]

_NAMES = {
    stores_pb2.CONSISTENCY_BSP: "CONSISTENCY_BSP",
    stores_pb2.CONSISTENCY_SSP: "CONSISTENCY_SSP",
    stores_pb2.CONSISTENCY_ASYNC: "CONSISTENCY_ASYNC",
}


def check_updates(train: TrainSpec) -> None:
    """Check consistency, optimizer and schedule of a job whose defaults are filled in.

    Raises:
        InvalidArgument: No store would take them; the error names the field.
    """
    rules = _consistency_rules, _optimizer_rules, _schedule_rules, _clipping_rules
    for name, value, holds, rule in chain.from_iterable(rule(train) for rule in rules):
        if not (math.isfinite(value) and holds):
            field = f"job.train.{name}"
            raise InvalidArgument(f"{field} is {value!r}; it must be {rule}", field=field)


def _consistency_rules(train: TrainSpec) -> Iterator[_Rule]:
    mode, bound, backups = train.consistency, train.staleness_bound, train.backup_workers
    yield "consistency", mode, mode in _NAMES, f"one of {', '.join(_NAMES.values())}"
    bounded = mode == stores_pb2.CONSISTENCY_SSP
    yield "staleness_bound", bound, bounded or not bound, f"0 with {_NAMES[mode]}; it is for CONSISTENCY_SSP"
    synchronous = mode == stores_pb2.CONSISTENCY_BSP
    yield (
        "backup_workers",
        backups,
        synchronous or not backups,
        f"0 with {_NAMES[mode]}; it is for CONSISTENCY_BSP",
    )
    yield "backup_workers", backups, backups < train.workers, f"fewer than the {train.workers} workers"


def _optimizer_rules(train: TrainSpec) -> Iterator[_Rule]:
    optimizer = train.optimizer
    kind = optimizer.WhichOneof("kind")
    assert kind, "the default is filled in"
    field = f"optimizer.{kind}"
    settings = getattr(optimizer, kind)
    rate = settings.learning_rate
    yield f"{field}.learning_rate", rate, rate > 0, "finite and greater than 0"
    if isinstance(settings, stores_pb2.Registered):
        return  # the nodes that run it know more
    decay = settings.weight_decay
    yield f"{field}.weight_decay", decay, decay >= 0, "finite and 0 or more"
    if isinstance(settings, stores_pb2.Sgd):
        yield f"{field}.momentum", settings.momentum, 0 <= settings.momentum < 1, "0 or more and less than 1"
        fits = not settings.nesterov or settings.momentum > 0
        yield f"{field}.nesterov", settings.nesterov, fits, "false without momentum"
        return
    yield (
        f"{field}.epsilon",
        settings.epsilon,
        settings.epsilon >= 0,
        "finite and 0 (for the default) or more",
    )
    if isinstance(settings, stores_pb2.Adagrad):
        start = settings.initial_accumulator
        yield f"{field}.initial_accumulator", start, start >= 0, "finite and 0 or more"
        return
    yield f"{field}.beta1", settings.beta1, 0 <= settings.beta1 < 1, "0 (for 0.9) or more and less than 1"
    yield f"{field}.beta2", settings.beta2, 0 <= settings.beta2 < 1, "0 (for 0.999) or more and less than 1"


def _schedule_rules(train: TrainSpec) -> Iterator[_Rule]:
    schedule, field = train.optimizer.schedule, "optimizer.schedule"
    decay, floor, factor = schedule.decay, schedule.floor, schedule.decay_factor
    known = decay in schedule_pb2.Decay.values()
    yield f"{field}.decay", decay, known, "DECAY_CONSTANT, DECAY_LINEAR, DECAY_COSINE or DECAY_STEP"
    constant = decay in (schedule_pb2.DECAY_UNSPECIFIED, schedule_pb2.DECAY_CONSTANT)
    steps = schedule.decay_steps
    yield f"{field}.decay_steps", steps, (steps == 0) is constant, "0 without a decay, and 1 or more with one"
    yield (
        f"{field}.floor",
        floor,
        floor == 0 if constant else 0 <= floor <= 1,
        "0 to 1, and 0 without a decay",
    )
    stepwise = decay == schedule_pb2.DECAY_STEP
    fits = 0 <= factor < 1 if stepwise else factor == 0
    yield (
        f"{field}.decay_factor",
        factor,
        fits,
        "0 (for 0.1) or more and less than 1, and 0 unless DECAY_STEP",
    )


def _clipping_rules(train: TrainSpec) -> Iterator[_Rule]:
    field, norm = "optimizer.maximum_gradient_norm", train.optimizer.maximum_gradient_norm
    yield field, norm, norm >= 0, "finite and 0 (no clipping) or more"
    whole_steps = train.consistency == stores_pb2.CONSISTENCY_BSP and not train.backup_workers
    yield field, norm, whole_steps or not norm, "0 unless CONSISTENCY_BSP without backup workers"
    joint = train.shards > 1 and train.optimizer.WhichOneof("kind") == "lamb"
    rule = "1 with LAMB, unless CONSISTENCY_BSP without backup workers"
    yield "shards", train.shards, not joint or whole_steps, rule
