# length: the rows of one table, and all that may happen to them
"""The rows of one table on one shard: read, updated, created on first touch, evicted.

Not thread-safe: its owner lets one call in at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from headrace.errors import InvalidArgument, QuotaExceeded
from headrace.parameters.keys import Arcs, Indices, Keys, arc_of
from headrace.parameters.layout import Floats
from headrace_optimizers.row_initializer import first_rows
from headrace_optimizers.row_updates import first_state, state_width, update_rows
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.rows import kernels
from headrace_parameters.core.rows.evictions import Evictions
from headrace_parameters.core.rows.former import Former
from headrace_parameters.core.rows.grouping import distinct, summed
from headrace_parameters.core.rows.hash_index import HashIndex
from headrace_parameters.core.rows.memory import FREE, LATEST, RowMemory, Steps, needed_bytes

_EVICTED_AT_ONCE = 16  # a sixteenth of the rows: to find the oldest is a pass over all
_IDLE_CHECKS = 8  # per `max_idle_steps`, for the same reason
_LOADED_AT_ONCE = 1 << 16  # rows of a snapshot

Reserve = Callable[[int], None]


def _any_number(_: int) -> None:
    """Reserve nothing."""


@dataclass
class Counts:
    """What happened to a table since it was made or restored."""

    created: int = 0
    evicted: int = 0
    touched: int = 0  # rows in pushes, each once per push
    pulled: int = 0  # rows in answers


@dataclass(frozen=True)
class Rows:
    """Rows with all that belongs to them.

    Args:
        keys: Shape (n,), all different.
        values: Shape (n, dim).
        state: Of the optimizer, shape (n, width).
        touched: In which step, shape (n,).
    """

    keys: Keys
    values: Floats
    state: Floats
    touched: Steps


class RowTable:
    """Rows by key.

    Args:
        shard_count: Over how many shards the table is spread.
        reserve: Told the memory the table needs in all, in bytes, before it takes more; raises if there is none.
        remembers: Keep what the last update changed as it was before.
        evictions: Told of each evicted key; None: nobody asks for them.
    """

    def __init__(
        self,
        config: TableConfig,
        shard_count: int = 1,
        reserve: Reserve = _any_number,
        *,
        remembers: bool = False,
        evictions: Evictions | None = None,
    ) -> None:
        self.config = config
        self.evictions = evictions
        self.former: Former | None = None  # unless it is remembered, and there was an update
        self._remembers = remembers
        self._replaced: list[tuple[Keys, Floats]] = []  # by the update that is going on
        self.counts = Counts()
        self._max_rows = -(-config.max_rows // shard_count)
        self.reserve = reserve
        self._memory = RowMemory(config.dim, state_width(config.optimizer, config.dim))
        self._index = HashIndex(lambda: self._memory.keys)
        self._checked = -1  # the last step in which rows were looked through for idle ones

    @property
    def rows(self) -> int:
        """How many are held."""
        return self._memory.rows

    @property
    def size_bytes(self) -> int:
        """Memory that is taken, for slots that evictions freed too, with state and index."""
        return self._needed_bytes(self._memory.used)

    def pull(self, keys: Keys, out: Floats, former: Former | None = None) -> None:
        """Write the rows of `keys` to `out`, shape (n, dim); rows that nobody has pushed to are computed, not created.

        Any number of threads may do it at once.

        Args:
            former: What `former` was, for the rows before the last update.
        """
        slots, absent = self._index.find(keys)
        kernels.gather(self._memory.values, slots, out)
        if absent:
            places = np.flatnonzero(slots < 0)
            out[places] = self._first_rows(keys[places])
        if former:
            former.put_into(keys, out)

    def scan(self, slot: int, count: int) -> tuple[Keys, Floats, int]:
        """Return rows that are held, of the next `count` slots.

        Returns:
            Their keys and values, and the slot to go on with; 0 after the last one. A row keeps its slot for as long as it is held.
        """
        stop = min(slot + count, self._memory.used)
        slots = slot + np.flatnonzero(self._memory.touched[slot:stop] != FREE)
        return self._memory.keys_of(slots), self._memory.values[slots], stop % max(1, self._memory.used)

    def apply(self, keys: Keys, gradient: Floats, *, update: int, step: int, factor: float = 1.0) -> None:
        """Do one optimizer step with the rows of `keys`; a key that is there more than once gets the sum of its gradients.

        Args:
            gradient: Shape (n, dim).
            update: How many came before.
            step: What time it is, for evictions: never less than before.
            factor: Of the learning rate.
        Raises:
            QuotaExceeded: There is no room for the rows that are new; nothing has changed.
        """
        keys, gradient = summed(keys, gradient)
        now = min(step, LATEST)
        slots, absent = self._index.find(keys)
        if absent:
            self._create_absent(keys, slots)
        memory = self._memory
        if self._remembers:
            before = np.empty(gradient.shape, np.float32)
            kernels.gather(memory.values, slots, before)
            self._replaced.append((keys, before))
        memory.touched[slots] = now
        update_rows(
            self.config.optimizer,
            memory.values,
            memory.state,
            slots,
            gradient,
            update=update,
            factor=factor,
        )
        self.counts.touched += keys.size
        self._forget_idle(now)
        if self._remembers:
            self.former, self._replaced = Former.of(self._replaced), []

    def save(self, since: int = 0, arcs: Arcs | None = None) -> Rows:
        """Return a copy of the rows that were touched in step `since` or later, by ascending key; with `arcs` those of these alone."""
        slots = self._memory.live(since)
        keys = self._memory.keys_of(slots)
        if arcs is not None:
            chosen = arcs[arc_of(keys)]
            slots, keys = slots[chosen], keys[chosen]
        order = np.argsort(keys)
        slots = slots[order]
        state = self._memory.state
        return Rows(
            keys=keys[order],
            values=self._memory.values[slots],
            state=state[slots] if state.size else np.zeros((slots.size, 0), np.float32),
            touched=self._memory.touched[slots],
        )

    def load(self, rows: Rows, chosen: Indices | None = None) -> None:
        """Put rows into a table that has none of their keys.

        Args:
            chosen: Which of them; None: all.
        Raises:
            InvalidArgument: They are of another dim or optimizer.
            QuotaExceeded, ResourceExhausted: There is no room for them.
        """
        shape = (rows.keys.size, self._memory.dim), (rows.keys.size, self._memory.width)
        if (rows.values.shape, rows.state.shape) != shape:
            raise InvalidArgument(
                f"the snapshot's rows of {self.config.name!r} have {rows.values.shape[1]} values and {rows.state.shape[1]} of optimizer "
                f"state; this table has {self._memory.dim} and {self._memory.width}: restore it to a table that was declared alike"
            )
        chosen = np.arange(rows.keys.size) if chosen is None else chosen
        self._check_room(self.rows + chosen.size)
        self._memory.make_room(self.rows + chosen.size)
        for start in range(0, chosen.size, _LOADED_AT_ONCE):
            part = chosen[start : start + _LOADED_AT_ONCE]
            keys = rows.keys[part]
            self._index.make_room(keys)
            slots = self._memory.allocate(keys, rows.values[part], rows.state[part])
            self._memory.touched[slots] = rows.touched[part]
            self._index.insert(keys, slots)

    def make_room(self, keys: Keys) -> None:
        """Make sure that `apply` finds room for the rows of `keys`; nothing else changes.

        Raises:
            QuotaExceeded, ResourceExhausted: There is none.
        """
        each = distinct(keys)
        slots, absent = self._index.find(each)
        if absent:
            self._make_room_for(each[slots < 0], slots[slots >= 0])

    def _make_room_for(self, new: Keys, present: Indices) -> Indices:
        """Make room for new rows beside those in the slots `present`; return the slots to be evicted for them."""
        evicted = self._chosen_to_make_room(present, new.size)
        rows = self.rows - evicted.size + new.size
        self._check_room(max(rows, self._memory.used))
        self._memory.make_room(rows)
        self._index.make_room(new)
        return evicted

    def _create_absent(self, keys: Keys, slots: Indices) -> None:
        """Make rows for the keys that have none, and write their slots in the place of -1."""
        absent = np.flatnonzero(slots < 0)
        new = keys[absent]
        self._evict(self._make_room_for(new, slots[slots >= 0]))
        slots[absent] = self._memory.allocate(new, self._first_rows(new), first_state(self.config.optimizer))
        self._index.insert(new, slots[absent])
        self.counts.created += absent.size

    def _chosen_to_make_room(self, present: Indices, new: int) -> Indices:
        """Choose the rows that were touched least recently, of these the smallest keys, but none of `present`."""
        excess = self.rows + new - self._max_rows
        if not self._max_rows or excess <= 0:
            return np.zeros(0, np.int64)
        if present.size + new > self._max_rows:
            raise QuotaExceeded(
                f"the push touches {present.size + new} rows of {self.config.name!r}; a shard of it keeps {self._max_rows}: "
                "nothing was applied; use smaller batches or raise max_rows",
                metadata={"max_rows": self._max_rows},
            )
        may_go = self._memory.touched != FREE
        may_go[present] = False
        others = np.flatnonzero(may_go)
        count = min(max(excess, self._max_rows // _EVICTED_AT_ONCE), others.size)
        return self._oldest(others, count)

    def _oldest(self, slots: Indices, count: int) -> Indices:
        touched = self._memory.touched[slots]
        limit = np.partition(touched, count - 1)[count - 1]
        older, ties = slots[touched < limit], slots[touched == limit]
        order = np.argsort(self._memory.keys_of(ties))
        return np.concatenate([older, ties[order[: count - older.size]]])

    def _forget_idle(self, now: int) -> None:
        idle = self.config.max_idle_steps
        if idle and now != self._checked and now % max(1, idle // _IDLE_CHECKS) == 0:
            self._checked = now
            live = self._memory.live()
            self._evict(live[self._memory.touched[live] < now - idle])

    def _evict(self, slots: Indices) -> None:
        if not slots.size:
            return
        if self._remembers:
            self._replaced.append((self._memory.keys_of(slots), self._memory.values[slots]))
        keys = self._memory.keys_of(slots)
        self._index.remove(keys)
        self._memory.free(slots)
        self.counts.evicted += slots.size
        if self.evictions:
            self.evictions.add(keys)

    def _check_room(self, rows: int) -> None:
        needed = self._needed_bytes(rows)
        if self.config.max_bytes and needed > self.config.max_bytes:
            raise QuotaExceeded(
                f"table {self.config.name!r} needs {needed} bytes for {rows} rows here and may have {self.config.max_bytes}; nothing was "
                "applied: raise its max_bytes, let it evict by max_rows, or use more shards",
                metadata={"needed_bytes": needed, "max_bytes": self.config.max_bytes},
            )
        self.reserve(needed)

    def _needed_bytes(self, rows: int) -> int:
        return needed_bytes(self._memory.dim, self._memory.width, rows)

    def _first_rows(self, keys: Keys) -> Floats:
        return first_rows(self.config.initializer, self.config.name, keys, self.config.dim)


def compile_loops(config: TableConfig) -> None:
    """Let all loops that such a table needs be compiled, or read from where they are kept, so that no worker's first step waits for it."""
    scratch = RowTable(replace(config, dim=1, max_rows=1, max_idle_steps=0, max_bytes=0))
    rows = np.zeros((2, 1), np.float32)
    for key in (0, 1):  # the second one evicts the first
        scratch.apply(np.array([key, key], np.uint64), rows, update=0, step=key)
    scratch.pull(np.array([0, 1], np.uint64), rows)
