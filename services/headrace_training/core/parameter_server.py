"""Agreement through a parameter store, whose shards hold the values and run the optimizer."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch

from headrace.errors import NonFiniteValues
from headrace.parameters.answers import Place
from headrace.parameters.layout import FlatLayout, Floats
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import tables_pb2
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.table_wire import table_to_proto
from headrace_training.core.device import HOST, Device
from headrace_training.core.early_gradient import Early
from headrace_training.core.mirror import Mirror, MirroredEarly


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

    def initialize(self, layout: FlatLayout, values: Floats, tables: Sequence[tables_pb2.Table] = ()) -> int:
        """Give the store its first values and tables, unless it has some."""

    def pull(self, *, out: Floats, exact: bool) -> object:
        """Write the newest values to `out`; exact: also if the store else sends them in fewer bits."""

    def begin_push_pull(self, step: int, gradient: Floats, samples: float) -> Early | None:
        """Begin to send a gradient that is still computed; None: it is sent whole."""

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats) -> Pulled:
        """Send a gradient with its weight, or what is left of it, and write the values that hold it to `out`."""

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
        open_tables: Connects to the store's tables; called if the model has some.
        device: Where the model is. The store's memory is the host's: gradients and values are copied, if that is somewhere else.
    """

    def __init__(
        self,
        store: ParameterStore,
        *,
        elastic: bool = False,
        open_tables: Callable[[], ShardedTables] | None = None,
        device: Device = HOST,
    ) -> None:
        self._store, self._elastic, self._open_tables = store, elastic, open_tables
        self._device, self._lent = device, np.empty(0, np.float32)
        self._early: MirroredEarly | None = None
        self._layers: Sequence[EmbeddingTable] = ()
        self._tables: ShardedTables | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tables:
            self._tables.close()
        self._store.close()

    def gradient_memory(self, size: int) -> Floats:
        """Return what the store lends: shards of this machine read gradients where they were computed."""
        self._lent = self._store.gradient_memory(size)
        return self._lent

    def begin(
        self,
        layout: FlatLayout,
        values: torch.Tensor,
        tables: Sequence[EmbeddingTable] = (),
        buffers: Sequence[torch.Tensor] = (),  # noqa: ARG002 - the store has none
    ) -> Place | None:
        """Take the store's values; the rank that comes first gives it its own, and declares the tables."""
        device = self._device
        self._values = Mirror(values, values.numpy() if device.is_host else device.host_memory(layout.size))
        self._values.fetch()
        self._layers = tables
        self._store.initialize(layout, self._values.host, [table_to_proto(table.config) for table in tables])
        if tables:
            assert self._open_tables, "whoever has a store can reach its tables"
            self._tables = self._open_tables()
            for table in tables:
                table.use(self._tables)
        if self._elastic:
            return self.rejoin()
        self._pull()
        return None

    def rejoin(self) -> Place:
        """Wait until this rank is a member of the store."""
        place = self._store.take_place(self._values.host)
        self._values.put()
        if self._tables:
            self._tables.follow(place)
        return place

    def begin_step(self, step: int, gradient: torch.Tensor, samples: int) -> Early | None:
        """Let the store take the gradient while it is computed, where it can."""
        mirror = self._mirrored(gradient)
        early = self._store.begin_push_pull(step, mirror.host, samples)
        if early is None or self._device.is_host:
            return early
        self._early = MirroredEarly(early, mirror)
        return self._early

    def step(self, step: int, gradient: torch.Tensor, samples: int) -> int:
        """Trade the gradient for new values; those of rows go first, so that no table is behind the values."""
        mirror = self._mirrored(gradient)
        early, self._early = self._early, None
        if early:
            early.fetch_rest()
        else:
            mirror.fetch()
        try:
            self._push_rows(step, samples)
            pulled = self._store.push_pull(step, mirror.host, samples, out=self._values.host)
        except NonFiniteValues as error:
            raise NonFiniteValues(f"the update is not finite in step {step}: {error.message}") from error
        self._values.put()
        return pulled.next_step

    def _mirrored(self, gradient: torch.Tensor) -> Mirror:
        """Return where the store reads a gradient."""
        if self._device.is_host:
            return Mirror(gradient, gradient.numpy())
        if not self._lent.size:
            self.gradient_memory(gradient.numel())
        return Mirror(gradient, self._lent)

    def _pull(self) -> None:
        self._store.pull(out=self._values.host, exact=True)
        self._values.put()

    def _push_rows(self, step: int, samples: int) -> None:
        for layer in self._layers:
            assert self._tables, "opened in `begin`"
            self._tables.push_rows(layer.config.name, step, *layer.gradient(), samples)

    def checkpoint(self) -> Sequence[str]:
        """Save the store: all shards after the same pushes, whatever other ranks do meanwhile."""
        return self._store.snapshot().artifacts

    def finish_run(self) -> None:
        """Let the store refuse what the other ranks do or wait for, once all rows are here."""
        self._keep_rows()
        self._store.finish_run()

    def final(self) -> None:
        """Pull what other ranks may have pushed last, all rows included."""
        self._pull()
        self._keep_rows()

    def stay(self) -> None:
        """Do not: whoever joins finds the values in the store."""

    def _keep_rows(self) -> None:
        for layer in self._layers:
            layer.keep()
