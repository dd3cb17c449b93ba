"""How gradients become values, as people say it: the server-side optimizer, its schedule, and when a push takes effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict

from headrace.client.choices import choose
from headrace.errors import InvalidArgument
from headrace.parameters.v1 import schedule_pb2 as schedules
from headrace.parameters.v1 import stores_pb2 as stores

Consistency = Literal["bsp", "ssp", "async"]
OptimizerKind = Literal["sgd", "adam", "adamw", "adagrad", "lamb", "registered"]
ScheduleKind = Literal["constant", "linear", "cosine", "step"]

_CONSISTENCIES = {
    "bsp": stores.CONSISTENCY_BSP,
    "ssp": stores.CONSISTENCY_SSP,
    "async": stores.CONSISTENCY_ASYNC,
}
_DECAYS = {
    "constant": schedules.DECAY_CONSTANT,
    "linear": schedules.DECAY_LINEAR,
    "cosine": schedules.DECAY_COSINE,
    "step": schedules.DECAY_STEP,
}


class UpdateOptions(TypedDict, total=False):
    """How gradients become values."""

    consistency: Consistency  # "bsp": a step waits for all workers; "ssp": within a bound; "async": for none
    staleness_bound: int  # 0; "ssp" alone: steps a worker may run ahead of the slowest
    backup_workers: int  # 0; "bsp" alone: workers a step does not wait for
    optimizer: OptimizerKind  # "adamw"
    update: str  # ""; "registered" alone: module:attribute of an update that the operator allows
    update_config: Mapping[str, Any] | None  # None; "registered" alone: its keyword arguments
    learning_rate: float  # 1e-3
    momentum: float  # 0; "sgd" alone
    nesterov: bool  # False; "sgd" with momentum alone
    weight_decay: float  # 0
    clip_norm: float  # 0: none; largest norm of a step's mean gradient; "bsp" without backup workers, or "all_reduce"
    schedule: ScheduleKind  # "constant"; how the learning rate goes down after the warm-up
    warmup_steps: int  # 0; steps of linear warm-up
    decay_steps: int  # 0: all steps after the warm-up; "step": between two reductions, needed
    decay_factor: float  # 0: 0.1; "step" alone: what each reduction multiplies with
    learning_rate_floor: float  # 0; least part of the learning rate that is left


def store_consistency(
    kind: Consistency, staleness_bound: int, backup_workers: int, workers: int
) -> stores.Consistency.ValueType:
    """Return the mode of the store.

    Raises:
        InvalidArgument: It is unknown, or one of the numbers does not go with it.
    """
    consistency = choose("consistency", kind, _CONSISTENCIES)
    if staleness_bound and kind != "ssp":
        raise InvalidArgument(
            f"staleness_bound {staleness_bound} is for consistency 'ssp'; leave it out with {kind!r}",
            field="staleness_bound",
        )
    if backup_workers and kind != "bsp":
        raise InvalidArgument(
            f"backup_workers {backup_workers} is for consistency 'bsp'; leave it out with {kind!r}",
            field="backup_workers",
        )
    if backup_workers and backup_workers >= workers:
        raise InvalidArgument(
            f"backup_workers is {backup_workers} of {workers} workers; a step needs the gradient of at least one",
            field="backup_workers",
        )
    return consistency


def server_optimizer(
    kind: OptimizerKind,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    nesterov: bool = False,
    update: str = "",
    update_config: Mapping[str, Any] | None = None,
) -> stores.Optimizer:
    """Return the server-side optimizer; `momentum` and `nesterov` are for "sgd" alone, `update` and its config for "registered"."""
    if kind == "registered" or update or update_config:
        return _registered(kind, learning_rate, momentum or weight_decay or nesterov, update, update_config)
    if kind == "sgd":
        sgd = stores.Sgd(
            learning_rate=learning_rate, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
        )
        return stores.Optimizer(sgd=sgd)
    for name, value in (("momentum", momentum), ("nesterov", nesterov)):
        if value:
            raise InvalidArgument(
                f"{name} {value} is for optimizer 'sgd'; leave it out with {kind!r}", field=name
            )
    match kind:
        case "adam":
            adam = stores.Adam(learning_rate=learning_rate, weight_decay=weight_decay)
            return stores.Optimizer(adam=adam)
        case "adamw":
            adamw = stores.AdamW(learning_rate=learning_rate, weight_decay=weight_decay)
            return stores.Optimizer(adamw=adamw)
        case "adagrad":
            adagrad = stores.Adagrad(learning_rate=learning_rate, weight_decay=weight_decay)
            return stores.Optimizer(adagrad=adagrad)
        case "lamb":
            lamb = stores.Lamb(learning_rate=learning_rate, weight_decay=weight_decay)
            return stores.Optimizer(lamb=lamb)
        case _:
            raise InvalidArgument(
                f"optimizer {kind!r} is unknown; use 'sgd', 'adam', 'adamw', 'adagrad', 'lamb' or 'registered'",
                field="optimizer",
            )


def _registered(
    kind: OptimizerKind,
    learning_rate: float,
    others: float,
    update: str,
    config: Mapping[str, Any] | None,
) -> stores.Optimizer:
    """Return an update of the user's own.

    Args:
        others: Not 0 if a setting of another optimizer was given.
    """
    if kind != "registered" or not update:
        raise InvalidArgument(
            f"update {update!r} and update_config are for optimizer 'registered', which needs them; the optimizer is {kind!r}",
            field="update",
        )
    if others:
        raise InvalidArgument(
            "momentum, nesterov and weight_decay are not for optimizer 'registered'; give what it takes as update_config",
            field="update_config",
        )
    made = stores.Registered(learning_rate=learning_rate, update=update)
    made.config.update(config or {})
    return stores.Optimizer(registered=made)


def clipping(norm: float, consistency: Consistency, backup_workers: int) -> float:
    """Return `norm` if such a store can clip by it."""
    if norm and (consistency != "bsp" or backup_workers):
        raise InvalidArgument(
            f"clip_norm {norm} needs all gradients of a step; use consistency 'bsp' without backup_workers",
            field="clip_norm",
        )
    return norm


def server_schedule(
    kind: ScheduleKind,
    *,
    steps: int,
    warmup_steps: int,
    decay_steps: int,
    decay_factor: float,
    floor: float,
) -> schedules.Schedule | None:
    """Return how the learning rate changes over a run of so many steps; None: not at all.

    Raises:
        InvalidArgument: The schedule is unknown, or a value does not go with it.
    """
    decay = choose("schedule", kind, _DECAYS)
    if kind in ("linear", "cosine") and not decay_steps:
        decay_steps = _steps_after(warmup_steps, steps)
    if kind == "step" and not decay_steps:
        raise InvalidArgument(
            "schedule 'step' needs decay_steps, the steps between two reductions", field="decay_steps"
        )
    if kind == "constant" and not (warmup_steps or decay_steps or decay_factor or floor):
        return None
    return schedules.Schedule(
        decay=decay,
        warmup_steps=warmup_steps,
        decay_steps=decay_steps,
        decay_factor=decay_factor,
        floor=floor,
    )


def _steps_after(warmup_steps: int, steps: int) -> int:
    if warmup_steps >= steps:
        raise InvalidArgument(
            f"warmup_steps is {warmup_steps} of {steps} steps; leave some for the decay", field="warmup_steps"
        )
    return steps - warmup_steps
