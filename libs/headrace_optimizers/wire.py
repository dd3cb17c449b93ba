"""Optimizers and schedules on the wire."""

import json
from typing import TypeVar

from google.protobuf.json_format import MessageToDict

from headrace.errors import InvalidArgument
from headrace.parameters.v1 import schedule_pb2, stores_pb2
from headrace_optimizers.config import Adagrad, Adam, AdamW, Lamb, Optimizer, Registered, Sgd
from headrace_optimizers.loading import Load, refuse
from headrace_optimizers.schedule import CONSTANT, Decay, Schedule

_DECAY = {
    schedule_pb2.DECAY_UNSPECIFIED: Decay.CONSTANT,
    schedule_pb2.DECAY_CONSTANT: Decay.CONSTANT,
    schedule_pb2.DECAY_LINEAR: Decay.LINEAR,
    schedule_pb2.DECAY_COSINE: Decay.COSINE,
    schedule_pb2.DECAY_STEP: Decay.STEP,
}
_DECAY_OF = {ours: theirs for theirs, ours in _DECAY.items()}
_DECAY_FACTOR = 0.1  # of stepwise decay, as torch has it

MomentsMessage = stores_pb2.Adam | stores_pb2.AdamW | stores_pb2.Lamb
Moments = TypeVar("Moments", Adam, AdamW, Lamb)


def optimizer_from_proto(optimizer: stores_pb2.Optimizer, load: Load = refuse) -> Optimizer:
    """Read an optimizer, with its defaults.

    Args:
        load: Finds a user's own update.
    Raises:
        InvalidArgument: A field cannot be; the error names it.
        ProgramNotAllowed: A user's own update may not run here.
    """
    match optimizer.WhichOneof("kind"):
        case "sgd":
            sgd = optimizer.sgd
            return Sgd(sgd.learning_rate, sgd.momentum, sgd.weight_decay, sgd.nesterov)
        case "adamw":
            return _moments(AdamW, optimizer.adamw)
        case "adam":
            return _moments(Adam, optimizer.adam)
        case "lamb":
            return _moments(Lamb, optimizer.lamb)
        case "registered":
            named = optimizer.registered
            config = json.dumps(MessageToDict(named.config), sort_keys=True)
            rule = load(named.update, json.loads(config), named.learning_rate)
            return Registered(named.learning_rate, named.update, config, rule)
        case "adagrad":
            ada = optimizer.adagrad
            epsilon = ada.epsilon or Adagrad.epsilon
            return Adagrad(ada.learning_rate, ada.initial_accumulator, epsilon, ada.weight_decay)
        case _:
            raise InvalidArgument(
                "optimizer is missing; give it `sgd`, `adam`, `adamw`, `adagrad`, `lamb` or `registered`",
                field="optimizer",
            )


def _moments(kind: type[Moments], given: MomentsMessage) -> Moments:
    return kind(
        given.learning_rate,
        given.beta1 or kind.beta1,
        given.beta2 or kind.beta2,
        given.epsilon or kind.epsilon,
        given.weight_decay,
    )


def schedule_from_proto(schedule: schedule_pb2.Schedule) -> Schedule:
    """Read a schedule; an empty message is a constant one."""
    decay = _DECAY.get(schedule.decay)
    if decay is None:
        raise InvalidArgument(
            f"optimizer.schedule.decay is {schedule.decay}; use DECAY_CONSTANT, DECAY_LINEAR, DECAY_COSINE or DECAY_STEP",
            field="optimizer.schedule.decay",
        )
    default = _DECAY_FACTOR if decay is Decay.STEP else 0.0
    return Schedule(
        decay=decay,
        warmup_steps=schedule.warmup_steps,
        decay_steps=schedule.decay_steps,
        floor=schedule.floor,
        decay_factor=schedule.decay_factor or default,
    )


def optimizer_to_proto(
    optimizer: Optimizer, schedule: Schedule, maximum_gradient_norm: float
) -> stores_pb2.Optimizer:
    """Write an optimizer, and its schedule unless that is constant."""
    message = stores_pb2.Optimizer(maximum_gradient_norm=maximum_gradient_norm)
    match optimizer:
        case Sgd():
            message.sgd.learning_rate, message.sgd.momentum = optimizer.learning_rate, optimizer.momentum
            message.sgd.weight_decay, message.sgd.nesterov = optimizer.weight_decay, optimizer.nesterov
        case AdamW():
            _write_moments(optimizer, message.adamw)
        case Adam():
            _write_moments(optimizer, message.adam)
        case Lamb():
            _write_moments(optimizer, message.lamb)
        case Registered():
            message.registered.learning_rate = optimizer.learning_rate
            message.registered.update = optimizer.update
            message.registered.config.update(json.loads(optimizer.config))
        case Adagrad():
            message.adagrad.learning_rate = optimizer.learning_rate
            message.adagrad.initial_accumulator = optimizer.initial_accumulator
            message.adagrad.epsilon = optimizer.epsilon
            message.adagrad.weight_decay = optimizer.weight_decay
    if schedule != CONSTANT:
        write_schedule(schedule, message.schedule)
    return message


def _write_moments(optimizer: Adam | AdamW | Lamb, message: MomentsMessage) -> None:
    message.learning_rate = optimizer.learning_rate
    message.beta1, message.beta2 = optimizer.beta1, optimizer.beta2
    message.epsilon, message.weight_decay = optimizer.epsilon, optimizer.weight_decay


def write_schedule(schedule: Schedule, message: schedule_pb2.Schedule) -> None:
    """Write a schedule."""
    message.decay = _DECAY_OF[schedule.decay]
    message.warmup_steps, message.decay_steps = schedule.warmup_steps, schedule.decay_steps
    message.floor, message.decay_factor = schedule.floor, schedule.decay_factor
