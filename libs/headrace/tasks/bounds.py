"""What a task tells of itself, cut to what every list, heartbeat and terminal can bear: a program may say anything."""

from google.protobuf.internal.containers import ScalarMap

from headrace.types.v1.task_pb2 import Best, Checkpoint, Failure, Task

MAX_MESSAGE = 1000  # characters of the one line for people
MAX_DETAIL = 8 << 10  # characters; the end of a traceback says most
MAX_METRICS = 100
MAX_METRIC_NAME = 100  # characters
MAX_SNAPSHOTS = 1024  # as many as a store may have shards
MAX_RESOURCE_NAME = 512  # characters; an artifact's has at most 148, a version's 155
_MAX_STAGE = 100  # characters


def bound_event(event: Task) -> None:
    """Cut what a subprocess reports, in place.

    Metrics beyond the first `MAX_METRICS` by name are left out. So is a checkpoint with more snapshots, or longer names, than any
    store has: a part of one cannot be gone on from. So are best values with a longer name.
    """
    if event.HasField("progress"):
        event.progress.stage = _line(event.progress.stage, _MAX_STAGE)
        _bound_metrics(event.progress.metrics)
    if event.HasField("checkpoint") and not _may_be(event.checkpoint):
        event.ClearField("checkpoint")
    if event.HasField("best") and not _may_be_best(event.best):
        event.ClearField("best")
    if event.HasField("result"):
        event.result.version = _line(event.result.version, MAX_RESOURCE_NAME)
        _bound_metrics(event.result.metrics)
    if event.HasField("failure"):
        event.failure.CopyFrom(bounded(event.failure))


def bounded(failure: Failure) -> Failure:
    """Return a failure whose message is one printable line and whose detail is short, without control characters."""
    return Failure(
        reason=_line(failure.reason, MAX_METRIC_NAME),
        message=_line(failure.message, MAX_MESSAGE),
        detail=_printable(failure.detail[-MAX_DETAIL:], "\n\t"),
    )


def _may_be(checkpoint: Checkpoint) -> bool:
    short = all(len(name) <= MAX_RESOURCE_NAME for name in checkpoint.snapshots)
    return len(checkpoint.snapshots) <= MAX_SNAPSHOTS and short


def _may_be_best(best: Best) -> bool:
    return len(best.artifact) <= MAX_RESOURCE_NAME and len(best.metric) <= MAX_METRIC_NAME


def _line(text: str, most: int) -> str:
    line = " ".join(_printable(text[: 2 * most]).split())
    return line if len(text) <= 2 * most and len(line) <= most else f"{line[: most - 1]}…"


def _printable(text: str, kept: str = "") -> str:
    """Put a space for what a terminal would obey instead of showing it."""
    return "".join(character if character.isprintable() or character in kept else " " for character in text)


def _bound_metrics(metrics: ScalarMap[str, float]) -> None:
    for name in sorted(metrics)[MAX_METRICS:]:
        del metrics[name]
    for name in [name for name in metrics if len(name) > MAX_METRIC_NAME]:
        del metrics[name]
