"""What a store does while some of its values move to other shards: it is held, brought to a common point, and replaced."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from headrace.errors import Aborted, HeadraceError
from headrace.parameters.cut import Cut, latest
from headrace.parameters.keys import Arcs
from headrace.parameters.shard_map import ShardMap
from headrace_parameters.core.part import Part
from headrace_parameters.core.standing import Standing
from headrace_parameters.gate import NOTHING
from headrace_parameters.live import LiveStore
from headrace_parameters.position import behind_all

if TYPE_CHECKING:
    from headrace_parameters.core.rows.part import TablePart


class Move:
    """The move of a store to a next map. From the beginning the shard is held: nothing is applied but for what `settle` lets in.

    Raises:
        Aborted: It is held already.
    """

    def __init__(self, store: LiveStore, next_map: ShardMap) -> None:
        self._store = store
        with store.still():
            if store.next_map:
                raise Aborted(
                    f"values of {store.config.name} are moving already, to shard map {store.next_map.epoch}; wait until they have"
                )
            store.next_map = next_map
            store.gate.hold(NOTHING)

    def settle(self, cut: Cut, timeout_s: float, over: Callable[[], bool]) -> bool:
        """Let in what lies before `cut`, and return whether the shard came there in time.

        Args:
            over: Whether nobody wants it any more; `look_again` when that becomes true.
        """
        store = self._store
        with store.still():
            arrived = store.gate.reach(cut, lambda: behind_all(store), timeout_s, over)
            store.check_serves()
            made = store.made()
        store.tell(made)
        return arrived

    def look_again(self) -> None:
        """Let `settle` see whether it is over."""
        with self._store.changing:
            self._store.gate.moved()

    def give_up(self) -> None:
        """Go on as if nothing had been."""
        with self._store.changing:
            self._store.next_map, self._store.next_map_agreed = None, False
            self._store.gate.open()
        self._store.moved()

    def agree(self) -> None:
        """Take note that all are ready: whoever takes this process's place may change to the next map once it is told."""
        with self._store.still():
            self._store.next_map_agreed = True

    def standing(self) -> Standing:
        """Say where the shard is in the run."""
        store = self._store
        with store.still():
            # A worker may take its own back before they have moved.
            store.shard.keep_gradients(logged=store.recorded)
            dense = store.shard.standing()
            cut = latest([dense.cut, *store.tables.standings()])
            return Standing(cut, replace(dense.pending, rows=store.tables.pending()), store.record)

    def part(self, workers: Collection[int]) -> Part:
        """Return what of the dense values can move."""
        with self._store.still():
            return self._store.shard.part(workers)

    def hand_over(self, swap: Callable[[], None], why: HeadraceError) -> None:
        """Let `swap` put another store in the place of this one, which then ends with `why`; nothing comes in between.

        Raises:
            HeadraceError: Why the store has ended before, or what `swap` raised; nothing has changed.
        """
        with self._store.still():
            swap()
            self._store.news.end(why)
            self._store.tables.end(why)
            self._store.gate.open()


def parts_of(
    store: LiveStore, arcs: Arcs, workers: Mapping[str, Collection[int]]
) -> "Iterator[tuple[str, TablePart]]":
    """Yield what of each table of a held store can move, with the gradients of these workers; one after the other: they are copied."""
    for name, table in store.tables.items():
        with store.still():
            part = table.part(arcs, workers.get(name, ()))
        yield name, part
