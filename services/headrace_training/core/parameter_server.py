"""Agreement through a parameter store, whose shards hold the values and run the optimizer."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from headrace.errors import NonFiniteValues
from headrace.parameters.answers import Place
from headrace.parameters.layout import FlatLayout, Floats


class Pulled(Protocol):
    """Values that were written where the caller wanted them."""

    @property
    def next_step(self) -> int:
        """After a push: the step to compute with them; more than one on if the run went on without this rank."""


class Snapshot(Protocol):
    """A store that was saved."""

    @property
    def artifacts(self) -> Sequence[str]:
        """One artifact per shard."""


class ParameterStore(Protocol):
    """What a rank asks of the parameter store; `headrace.parameters.client.ShardedStore` is one."""

    def gradient_memory(self, size: int) -> Floats:
        """Return zeros, shape (size,), from where a gradient travels with the fewest copies."""

    def initialize(self, layout: FlatLayout, values: Floats) -> int:
        """Give the store its first values, unless it has some."""

    def pull(self, *, out: Floats, exact: bool) -> object:
        """Write the newest values to `out`; exact: also if the store else sends them in fewer bits."""

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats) -> Pulled:
        """Send a gradient with its weight, and write the values that hold it to `out`."""

    def take_place(self, out: Floats) -> Place:
        """Wait to be a member, and write the values that the members' step begins with to `out`."""

    def snapshot(self) -> Snapshot:
        """Save the store."""

    def finish_run(self) -> None:
        """Refuse everything from now on, whoever asks."""

    def close(self) -> None:
        """Let go of it."""


class ParameterServer:
    """A `Synchronizer` over a parameter store, which is closed with it. The store's consistency decides who waits for whom.

    Args:
        elastic: Ranks may join and leave while the run goes on.
    """

    def __init__(self, store: ParameterStore, *, elastic: bool = False) -> None:
        self._store, self._elastic = store, elastic
        self._values: Floats = np.empty(0, np.float32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    def gradient_memory(self, size: int) -> Floats:
        """Return what the store lends: shards of this machine read gradients where they were computed."""
        return self._store.gradient_memory(size)

    def begin(self, layout: FlatLayout, values: Floats) -> Place | None:
        """Take the store's values; the rank that comes first gives it its own."""
        self._values = values
        self._store.initialize(layout, values)
        if self._elastic:
            return self.rejoin()
        self._store.pull(out=values, exact=True)
        return None

    def rejoin(self) -> Place:
        """Wait until this rank is a member of the store."""
        return self._store.take_place(self._values)

    def step(self, step: int, gradient: Floats, samples: int) -> int:
        """Trade the gradient for new values."""
        try:
            return self._store.push_pull(step, gradient, samples, out=self._values).next_step
        except NonFiniteValues as error:
            raise NonFiniteValues(f"the update is not finite in step {step}: {error.message}") from error

    def checkpoint(self) -> Sequence[str]:
        """Save the store: all shards after the same pushes, whatever other ranks do meanwhile."""
        return self._store.snapshot().artifacts

    def finish_run(self) -> None:
        """Let the store refuse what the other ranks do or wait for."""
        self._store.finish_run()

    def final(self) -> None:
        """Pull what other ranks may have pushed last."""
        self._store.pull(out=self._values, exact=True)
