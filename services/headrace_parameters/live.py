"""A shard that many calls use at once: one changes it at a time, any number reads or waits for news."""

import threading
from collections.abc import Callable
from datetime import datetime

from headrace.errors import DeadlineExceeded, HeadraceError
from headrace.parameters.layout import FlatLayout, Floats
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.need import Need
from headrace_parameters.core.shard import Published, Push, Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.published_memory import PublishedMemory
from headrace_parameters.recycled import PrivateMemory, Recycled


class LiveStore:
    """One shard of a store in this process.

    Updates are computed under one lock, and readers wait under another: a pull never waits for an update to be computed, it
    takes the version before, whose values stay as they are for as long as somebody in this process reads them.
    """

    def __init__(self, config: StoreConfig, create_time: datetime) -> None:
        self.config = config
        self.create_time = create_time
        self.memory = PublishedMemory()
        self._gradients = Recycled(PrivateMemory)
        self._shard = Shard(config, self.memory.allocate)
        self._changing = threading.Lock()
        self._news = threading.Condition()
        self._ended: HeadraceError | None = None

    @property
    def layout(self) -> FlatLayout | None:
        """The tensors of the whole model; None before there are values."""
        return self._shard.layout

    @property
    def published(self) -> Published | None:
        """The newest values; None before there are any."""
        return self._shard.published

    @property
    def size_bytes(self) -> int:
        """Memory of values and optimizer state."""
        return self._shard.size_bytes

    def needed_bytes(self, layout: FlatLayout) -> int:
        """Return the memory that values and optimizer state of such a model need here."""
        return self._shard.needed_bytes(layout)

    def held(self, layout: FlatLayout) -> range:
        """Say which values of the flat vector are held here."""
        return self._shard.held(layout)

    def check_layout(self, layout: FlatLayout) -> None:
        """Raise ShapeMismatch if there are values of another model."""
        self._shard.check_layout(layout)

    def initialize(self, layout: FlatLayout, values: Floats) -> None:
        """Take the first values, shape (values held here,), unless there are some."""
        with self._changing:
            self._check_alive()
            self._shard.initialize(layout, values)
        self.wake()

    def new_gradient(self) -> Floats:
        """Return memory for a gradient, with anything in it; there are values."""
        assert self.published is not None
        _, values = self._gradients.take(self.published.values.size)
        return values

    def is_duplicate(self, worker: int, step: int) -> bool:
        """Tell early what `push` will find; it raises what `push` would."""
        with self._changing:
            return self._shard.is_duplicate(worker, step)

    def push(self, push: Push) -> bool:
        """Take a gradient; return False if it was taken before."""
        with self._changing:
            self._check_alive()
            taken = self._shard.push(push)
        self.wake()
        return taken

    def need_for(self, step: int) -> Need:
        """Say what the values must hold with which a worker computes `step`."""
        return self._shard.need_for(step)

    def next_step(self, worker: int, published: Published) -> int:
        """Return the first step that this worker can compute with these values and whose gradient will be taken."""
        return self._shard.next_step(worker, published)

    def state(self) -> ShardState:
        """Return a copy of everything, of one moment."""
        with self._changing:
            self._check_alive()
            return self._shard.state()

    def restore(self, state: ShardState) -> None:
        """Become what `state` says."""
        with self._changing:
            self._check_alive()
            self._shard.restore(state)
        self.wake()

    def finish_step(self, step: int, squared_norm: float) -> None:
        """Apply a complete step, clipped by the norm over all shards; do nothing if it is applied already."""
        with self._changing:
            self._check_alive()
            self._shard.finish_step(step, squared_norm)
        self.wake()

    def wait_for_norm(self, step: int, timeout_s: float, wanted: Callable[[], bool]) -> float | None:
        """Return the squared norm of this shard's part of a step, once it is complete; None: the step is long applied.

        Raises:
            DeadlineExceeded: It was not complete in time.
            HeadraceError: Why the store ended meanwhile.
        """
        with self._news:
            self._news.wait_for(lambda: self._ended or self._is_complete(step) or not wanted(), timeout_s)
        self._check_alive()
        measured = self._shard.measured
        if not self._is_complete(step):
            raise self._too_late(Need(version=step + 1))
        return measured.squared_norm if measured and measured.step == step else None

    def _is_complete(self, step: int) -> bool:
        measured, published = self._shard.measured, self.published
        if measured and measured.step >= step:
            return True
        return published is not None and published.version > step

    def wait(self, need: Need, timeout_s: float, wanted: Callable[[], bool]) -> Published:
        """Return the values as soon as they hold what `need` asks for.

        Args:
            wanted: Whether somebody still waits; asked again at every `wake`.
        Raises:
            DeadlineExceeded: It did not come in time; the message says whose gradients are missing.
            HeadraceError: Why the store ended meanwhile.
        """
        with self._news:
            self._news.wait_for(lambda: self._ended or self._fitting(need) or not wanted(), timeout=timeout_s)
        self._check_alive()
        published = self._fitting(need)
        if published is None:
            raise self._too_late(need)
        return published

    def end(self, why: HeadraceError) -> None:
        """Refuse everything from now on with `why`, waiting pulls first."""
        with self._changing:
            self._ended = why
        self.wake()

    def wake(self) -> None:
        """Let every waiting call look again."""
        with self._news:
            self._news.notify_all()

    def _fitting(self, need: Need) -> Published | None:
        published = self.published
        return published if published and need.met_by(published.version, published.slowest) else None

    def _check_alive(self) -> None:
        if self._ended:
            # A fresh one each time: an exception that is raised in several threads mixes up their tracebacks.
            raise type(self._ended)(
                self._ended.message, metadata=self._ended.metadata, retry_after_s=self._ended.retry_after_s
            )

    def _too_late(self, need: Need) -> DeadlineExceeded:
        published = self.published
        if published is None:
            return DeadlineExceeded(
                f"{self.config.name} got no values in time; did a worker call Initialize?"
            )
        missing = self._shard.missing_workers(need)
        step = max(need.clock - 1, published.version if self.config.consistency is Consistency.BSP else 0)
        why = f"the pushes of workers {missing} for step {step} are missing" if missing else "nobody pushed"
        if self._is_complete(published.version):
            why = f"step {published.version} waits for its norm: FinishStep"
        return DeadlineExceeded(
            f"{self.config.name} did not get as far as asked in time, it has version {published.version}: {why}",
            metadata={"version": published.version, "missing_workers": ",".join(map(str, missing))},
        )
