"""Dynamic batching without windows: what waits while a worker is busy becomes its next batch.

Nobody waits beside an idle worker, so a lone caller pays nothing; under load the batches grow by themselves, because
more arrives while one of them runs. The queue tells no time, starts no thread and locks nothing: its caller does.
"""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np

from headrace.errors import ResourceExhausted, ShapeMismatch
from headrace.inference.tensors import Array

Arrays = Mapping[str, Array]

RETRY_AFTER_S = 0.1  # a full queue moves on within some runs; callers add jitter of their own


class Runner(Protocol):
    """What runs a model."""

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Return the wished outputs for checked inputs; several threads may call it at a time."""


@dataclass(frozen=True)
class Batching:
    """How one model's requests share its workers.

    Args:
        workers: Batches that run at the same time, >= 1.
        max_size: Most rows in a batch of more than one request, >= 1; 1 turns batching off. A larger request runs alone.
        max_waiting: Most requests in the queue, >= 1.
    """

    workers: int = 1
    max_size: int = 32
    max_waiting: int = 128


@dataclass(eq=False)
class Request:
    """One checked request.

    Args:
        inputs: All inputs of the model.
        outputs: The wished outputs, in the wished order.
        deadline: When its caller stops waiting, on the clock of the queue's `now`, in seconds.
    """

    inputs: Arrays
    outputs: tuple[str, ...]
    deadline: float = float("inf")
    arrived: float = field(default=0.0, init=False)

    @property
    def rows(self) -> int:
        """Length of the first axis of the inputs; 1 if the first of them has no axes."""
        first = next(iter(self.inputs.values()))
        return first.shape[0] if first.shape else 1

    @property
    def kind(self) -> Hashable:
        """Equal for requests whose arrays can be joined: names, dtypes and shapes without the first axis."""
        return frozenset((name, array.dtype, array.shape[1:]) for name, array in self.inputs.items())


class Cut(Enum):
    """Why a batch is not larger."""

    IDLE = "idle"  # it found a worker free, and ran at once
    DRAINED = "drained"  # nothing more waited
    FULL = "full"  # it has as many rows as it may have
    NEXT_TOO_LARGE = "next_too_large"  # with the next request it would have more
    OTHER_SHAPES = "other_shapes"  # only requests of other shapes or types waited
    TOO_LARGE = "too_large"  # a single request has more rows than a batch of several may have
    UNBATCHED = "unbatched"  # the model's requests are never joined
    NEIGHBOUR_FAILED = "neighbour_failed"  # it was part of a batch that failed as a whole


@dataclass(frozen=True)
class Turn:
    """What a worker does next: run `batch` (nothing, if it is empty). The `expired` are out of the queue, unrun."""

    batch: Sequence[Request]
    expired: Sequence[Request]
    cut: Cut = Cut.IDLE


class BatchQueue:
    """The requests of one model: which run, which wait, which wait no longer.

    Args:
        joins: Whether requests of this model may be joined at all.
    """

    def __init__(self, batching: Batching, *, joins: bool) -> None:
        self._batching = batching
        self._joins = joins and batching.max_size > 1
        self._waiting: deque[Request] = deque()
        self._busy = 0

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self._busy and not self._waiting

    def offer(self, request: Request, now: float) -> bool:
        """Take in a request; return True if a worker is free, so that it runs now, else it waits.

        Raises:
            ResourceExhausted: As many as may be are waiting.
        """
        request.arrived = now
        if self._busy < self._batching.workers:
            self._busy += 1
            return True
        if len(self._waiting) >= self._batching.max_waiting:
            raise ResourceExhausted(
                f"{len(self._waiting)} requests wait for the model already; send again later",
                metadata={"waiting": len(self._waiting)},
                retry_after_s=RETRY_AFTER_S,
            )
        self._waiting.append(request)
        return False

    def withdraw(self, request: Request) -> bool:
        """Take a waiting request out; return False if it does not wait: it runs, or has run."""
        try:
            self._waiting.remove(request)
        except ValueError:
            return False
        return True

    def next_turn(self, now: float) -> Turn:
        """Say what a worker that has finished does next; with an empty batch it is free.

        The request that waits longest leads; others of its kind join in their order, up to the size of a batch.
        """
        expired = [request for request in self._waiting if request.deadline <= now]
        for request in expired:
            self._waiting.remove(request)
        if not self._waiting:
            self._busy -= 1
            return Turn((), expired)
        batch, cut = self._batch()
        for request in batch:
            self._waiting.remove(request)
        return Turn(batch, expired, cut)

    def _batch(self) -> tuple[list[Request], Cut]:
        leader, *others = self._waiting
        batch, rows = [leader], leader.rows
        if not self._joins:
            return batch, Cut.UNBATCHED
        if rows >= self._batching.max_size:
            return batch, Cut.FULL if rows == self._batching.max_size else Cut.TOO_LARGE
        for request in others:
            if request.kind != leader.kind:
                continue
            if rows == self._batching.max_size:
                return batch, Cut.FULL
            if rows + request.rows > self._batching.max_size:
                return (
                    batch,
                    Cut.NEXT_TOO_LARGE,
                )  # not the next smaller one: nobody is overtaken by his own kind
            batch.append(request)
            rows += request.rows
        if rows == self._batching.max_size:
            return batch, Cut.FULL
        return batch, Cut.DRAINED if len(batch) == 1 + len(others) else Cut.OTHER_SHAPES


def join(batch: Sequence[Request]) -> tuple[Arrays, tuple[str, ...]]:
    """Return the inputs of all requests as one, and every output that any of them wishes."""
    first = batch[0].inputs
    if len(batch) == 1:
        return first, batch[0].outputs
    inputs = {name: np.concatenate([request.inputs[name] for request in batch]) for name in first}
    return inputs, tuple(dict.fromkeys(name for request in batch for name in request.outputs))


def split(outputs: Arrays, batch: Sequence[Request]) -> list[Arrays]:
    """Return to each request its own rows of the outputs it wishes.

    Raises:
        ShapeMismatch: An output does not have as many rows as the batch.
    """
    if len(batch) == 1:
        return [{name: outputs[name] for name in batch[0].outputs}]
    ends = np.cumsum([request.rows for request in batch]).tolist()
    for name, array in outputs.items():
        if array.shape[:1] != (ends[-1],):
            raise ShapeMismatch(f"output {name!r} has shape {list(array.shape)} for {ends[-1]} rows")
    begins = [0, *ends[:-1]]
    return [
        {name: outputs[name][begin:end] for name in request.outputs}
        for request, begin, end in zip(batch, begins, ends, strict=True)
    ]
