"""The words of batching: how a model's requests share its workers, a request, and a turn of a worker."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, Protocol, TypeVar

from headrace.errors import HeadraceError, InvalidArgument
from headrace.inference.tensors import Array
from headrace_inference.core.padding import Padding

Arrays = Mapping[str, Array]

MAX_LEVELS = 64  # every cut looks at each of them
RETRY_AFTER_S = 0.1  # a full queue moves on within some runs; callers add jitter of their own


class Runner(Protocol):
    """What runs a model."""

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Return the wished outputs for checked inputs; several threads may call it at a time."""


class OnTimeout(Enum):
    """What becomes of a request whose timeout passes while it waits."""

    REJECT = "reject"  # it gets DEADLINE_EXCEEDED, and does not run
    DELAY = "delay"  # it runs after all others of its level


@dataclass(frozen=True)
class QueuePolicy:
    """How requests of one priority level wait; the fields of Triton's `ModelQueuePolicy`.

    Args:
        max_waiting: Most requests of the level in the queue; 0: as many as the model's queue takes.
        timeout_s: How long a request may wait; 0: as long as its caller does.
        callers_may_shorten: Whether a request may name a shorter time itself.
        on_timeout: What becomes of it then.
    """

    max_waiting: int = 0
    timeout_s: float = 0.0
    callers_may_shorten: bool = True
    on_timeout: OnTimeout = OnTimeout.REJECT

    def timeout(self, wished_s: float) -> float:
        """Return how long a request may wait whose caller wishes `wished_s` (0: no wish); infinity without a limit."""
        own = self.timeout_s or math.inf
        return min(own, wished_s) if wished_s > 0 and self.callers_may_shorten else own


@dataclass(frozen=True)
class Batching:
    """How one model's requests share its workers.

    Args:
        workers: Batches that run at the same time, >= 1.
        max_size: Most rows in a batch of more than one request, >= 1; 1 turns batching off. A larger request runs alone.
        max_waiting: Most requests in the queue, >= 1.
        max_delay_s: How long the oldest request may wait beside a free worker for a fuller batch; 0: not at all.
        preferred_sizes: Rows of batches the model is quick with: a batch is cut to the largest of these that is there.
        levels: Levels of priority, 1 to `MAX_LEVELS`; level 1 goes first.
        default_level: Of requests that name no level of these.
        policy: How requests wait, on every level that `policies` does not name.
        policies: By level.
        max_wait_s: Longest wait that is expected of a request that is let in.
        padding: What makes requests of different lengths equal.
    Raises:
        InvalidArgument: A value is out of its range.
    """

    workers: int = 1
    max_size: int = 32
    max_waiting: int = 128
    max_delay_s: float = 0.0
    preferred_sizes: tuple[int, ...] = ()
    levels: int = 1
    default_level: int = 1
    policy: QueuePolicy = QueuePolicy()
    policies: Mapping[int, QueuePolicy] = field(default_factory=dict)
    max_wait_s: float = math.inf
    padding: Padding | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("workers", "max_size", "max_waiting"):
            _refuse_unless(getattr(self, name) >= 1, name, getattr(self, name), "1 or more")
        _refuse_unless(1 <= self.levels <= MAX_LEVELS, "levels", self.levels, f"1 to {MAX_LEVELS}")
        _refuse_unless(
            0 <= self.max_delay_s < math.inf, "max_delay_s", self.max_delay_s, "0 or more seconds, and finite"
        )
        _refuse_unless(self.max_wait_s > 0, "max_wait_s", self.max_wait_s, "more than 0 seconds")
        bounds = f"1 to {self.max_size}, the largest batch"
        for size in self.preferred_sizes:
            _refuse_unless(1 <= size <= self.max_size, "preferred_sizes", size, bounds)
        for level in (self.default_level, *self.policies):
            _refuse_unless(1 <= level <= self.levels, "a priority level", level, f"1 to {self.levels}")

    def level(self, priority: int) -> int:
        """Return the level of a request; a priority that is none means the default, as with Triton."""
        return priority if 1 <= priority <= self.levels else self.default_level

    def policy_of(self, level: int) -> QueuePolicy:
        """Return how requests of a level wait."""
        return self.policies.get(level, self.policy)


def _refuse_unless(holds: bool, name: str, value: float, expected: str) -> None:
    if not holds:
        raise InvalidArgument(f"{name} is {value}; it must be {expected}", field=name)


class Terms(NamedTuple):
    """What a caller says of a request beside its tensors.

    Args:
        caller: Who asks; equal for requests that share one part of the queue.
        priority: Level, from 1, the first; 0 leaves it to the model.
        timeout_s: How long it may wait in the queue; 0: as long as its deadline allows.
    """

    caller: Hashable = ""
    priority: int = 0
    timeout_s: float = 0.0


NO_TERMS = Terms()


class Request:
    """One checked request. The queue keeps what it needs to know of it here, and looks nothing up.

    Args:
        inputs: All inputs of the model, none without elements of a first axis but those without axes.
        outputs: The wished outputs, in the wished order.
        deadline: When its caller stops waiting, on the clock of the queue's `now`, in seconds.
    """

    def __init__(
        self, inputs: Arrays, outputs: tuple[str, ...], deadline: float = math.inf, terms: Terms = NO_TERMS
    ) -> None:
        self.inputs = inputs
        self.outputs = outputs
        self.deadline = deadline
        self.terms = terms
        shape = next(iter(inputs.values())).shape
        self.rows: int = shape[0] if shape else 1  # length of the first axis; 1 without axes
        self.arrived = 0.0
        self.waiting = False
        # What follows is the queue's own, and set when it waits: its level, its kind, its number among all, its turn
        # among those of its level, and when it leaves the queue at the latest.
        self.level = 0
        self.kind: Hashable = None
        self.number = 0
        self.tag = 0.0
        self.expires = math.inf


class Cut(Enum):
    """Why a batch is not larger."""

    IDLE = "idle"  # it found a worker free, and ran at once
    DRAINED = "drained"  # nothing more waited
    FULL = "full"  # it has as many rows as it may have
    PREFERRED = "preferred"  # it has a size that the model is quick with
    NEXT_TOO_LARGE = "next_too_large"  # with the next request it would have more
    SHARED = "shared"  # the rest is for workers that are free now or soon
    OTHER_SHAPES = "other_shapes"  # only requests of other shapes or types waited
    DELAY_OVER = "delay_over"  # its oldest request had waited for others as long as allowed
    TOO_LARGE = "too_large"  # a single request has more rows than a batch of several may have
    UNBATCHED = "unbatched"  # the model's requests are never joined
    NEIGHBOUR_FAILED = "neighbour_failed"  # it was part of a batch that failed as a whole


R = TypeVar("R", bound=Request)


@dataclass(frozen=True)
class Dropped(Generic[R]):
    """A request that has left the queue without running, and the error its caller gets."""

    request: R
    error: HeadraceError


@dataclass(eq=False, slots=True)  # not frozen: that would take as long as all else of a turn
class Turn(Generic[R]):
    """What a worker does next: run `batch` of so many rows (nothing, if it is empty), which the queue counts as running since `began`."""

    batch: Sequence[R] = ()
    rows: int = 0
    dropped: Sequence[Dropped[R]] = ()
    cut: Cut = Cut.IDLE
    began: float = 0.0
