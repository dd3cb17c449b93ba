"""What a training may be asked for: the bounds.

Read by the service that runs it, and before that by the scheduler, which refuses what could never run.
"""

from headrace.errors import InvalidArgument
from headrace.training.v1.workers_pb2 import TrainingOptions

# Bounds that no machine or patience reaches: beyond them is a mistake in writing.
MOST_STEPS = 1_000_000_000_000
LARGEST_BATCH_SIZE = 1 << 24
MOST_THREADS = 1024


def check_options(options: TrainingOptions, workers: int) -> None:
    """Check how `workers` workers shall train.

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


def _check_within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InvalidArgument(f"{name} is {value}; it must be {least} to {most}", field=f"options.{name}")
