"""What a training may be asked for: the bounds.

Read by the service that runs it, and before that by the scheduler, which refuses what could never run.
"""

import math

from headrace.errors import InvalidArgument
from headrace.training.v1.workers_pb2 import Device, Direction, Precision, Strategy, TrainingOptions

# Bounds that no machine or patience reaches: beyond them is a mistake in writing.
MOST_STEPS = 1_000_000_000_000
LARGEST_BATCH_SIZE = 1 << 24
MOST_THREADS = 1024


def check_options(options: TrainingOptions, workers: int, strategy: Strategy.ValueType) -> None:
    """Check how `workers` workers shall train by `strategy`.

    Raises:
        InvalidArgument: Some value is out of bounds; `field` names it as in `TrainingOptions`.
    """
    _check_within("steps", options.steps, 1, MOST_STEPS)
    _check_within("batch_size", options.batch_size, 1, LARGEST_BATCH_SIZE)
    if options.batch_size < workers:
        raise InvalidArgument(
            f"batch_size is {options.batch_size}, but each of the {workers} workers needs at least one example; "
            "take a larger batch or fewer workers",
            field="options.batch_size",
        )
    _check_within("threads", options.threads, 0, MOST_THREADS)
    _check_within("accumulate", options.accumulate, 0, options.batch_size // workers)
    if options.precision not in Precision.values():
        raise InvalidArgument(
            f"precision is {options.precision}; use PRECISION_FP32 or PRECISION_BF16",
            field="options.precision",
        )
    if options.device not in Device.values():
        raise InvalidArgument(
            f"device is {options.device}; use DEVICE_AUTO, DEVICE_CPU or DEVICE_CUDA", field="options.device"
        )
    _check_averaging(options, strategy)
    if options.fully_sharded and strategy != Strategy.STRATEGY_ALL_REDUCE:
        raise InvalidArgument(
            "fully_sharded is for STRATEGY_ALL_REDUCE; choose it, or leave out fully_sharded",
            field="options.fully_sharded",
        )
    if options.HasField("selection"):
        _check_selection(options)


def _check_selection(options: TrainingOptions) -> None:
    selection = options.selection
    if not options.evaluate_every_steps:
        raise InvalidArgument(
            "evaluate_every_steps is 0, but the best evaluation is to be found; evaluate every so many steps",
            field="options.evaluate_every_steps",
        )
    if selection.direction not in Direction.values():
        raise InvalidArgument(
            f"selection.direction is {selection.direction}; use DIRECTION_MAX or DIRECTION_MIN",
            field="options.selection.direction",
        )
    least = selection.minimum_improvement
    if not math.isfinite(least) or least < 0:
        raise InvalidArgument(
            f"selection.minimum_improvement is {least}; it must be 0 or more, in units of the metric",
            field="options.selection.minimum_improvement",
        )


def _check_averaging(options: TrainingOptions, strategy: Strategy.ValueType) -> None:
    """Between two means each rank has values of its own: not what one would evaluate or save."""
    every = options.average_every_steps
    if (strategy == Strategy.STRATEGY_LOCAL_SGD) != bool(every):
        raise InvalidArgument(
            f"average_every_steps is {every}; give it with STRATEGY_LOCAL_SGD, 1 or more, and with no other strategy",
            field="options.average_every_steps",
        )
    steps = {
        "checkpoint_every_steps": options.checkpoint_every_steps,
        "evaluate_every_steps": options.evaluate_every_steps,
    }
    for name, value in steps.items():
        if every and value % every:
            raise InvalidArgument(
                f"{name} is {value}; it must be a multiple of average_every_steps, {every}",
                field=f"options.{name}",
            )


def _check_within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidArgument(f"{name} is {value}; it must be {least} to {most}", field=f"options.{name}")
