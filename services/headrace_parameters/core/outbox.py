"""What a primary still has to get across to its replica, in order.

Every change is a record with a number, and what is in it is nobody's business here. A *base* is the whole store at one number: it
comes first for a replica that has nothing, and wherever a store becomes another one at once, by first values or a restore.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

from headrace_parameters.core.exchange import Loan
from headrace_parameters.core.state import ShardState


@dataclass(frozen=True)
class Record:
    """One record as bytes; `payload` is left as it is until the replica neither has to be sent it nor reads it in place.

    Args:
        loan: The payload is in a worker's memory, and is as it was only while this holds.
    """

    number: int
    header: bytes
    payload: memoryview
    loan: Loan | None = None

    @property
    def size_bytes(self) -> int:
        """Length of the payload."""
        return self.payload.nbytes

    @property
    def holds(self) -> bool:
        """Whether the payload is as it was."""
        return self.loan is None or self.loan.holds()


@dataclass(frozen=True)
class Base:
    """Everything up to and with record `number`; None: there are no values yet."""

    number: int
    state: ShardState | None

    @property
    def size_bytes(self) -> int:
        """0: its tensors are the store's own, or copied once, and count as no backlog."""
        return 0


Item = Record | Base
Copied = Callable[[memoryview], memoryview]  # of a payload, in memory of this process


class Outbox:
    """Not thread-safe: its owner lets one call in at a time.

    Args:
        number: Of the last record that the store has.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self._items: deque[Item] = deque()  # those the replica is not known to hold
        self._read_in_place: dict[int, Record] = {}  # held by the replica, but read where it lies here
        self.backlog_bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, header: bytes, payload: memoryview, loan: Loan | None = None) -> None:
        """Append the next record."""
        self.number += 1
        self._items.append(Record(self.number, header, payload, loan))
        self.backlog_bytes += payload.nbytes

    def become(self, state: ShardState) -> None:
        """Append a change of everything, which makes what was before it superfluous."""
        self.number += 1
        self.begin(state)

    def begin(self, state: ShardState | None) -> None:
        """Let `state`, which has every record so far, be what a new replica begins with."""
        self._items = deque([Base(self.number, state)])
        self.backlog_bytes = 0

    def confirm(self, held: int, in_use: Collection[int]) -> None:
        """Take note that the replica holds everything up to `held`, and reads some of it in place."""
        while self._items and self._items[0].number <= held:
            item = self._items.popleft()
            self.backlog_bytes -= item.size_bytes
            if isinstance(item, Record):
                self._read_in_place[item.number] = item
        for number in [n for n in self._read_in_place if n not in in_use]:
            del self._read_in_place[number]

    def keep_loans(self, copied: Copied) -> bool:
        """Let no payload lie in a worker's memory any more; return False, with nothing changed, if one is not as it was."""
        kept = deque(_kept(item, copied) for item in self._items)
        if not all(item.holds for item in self._items if isinstance(item, Record)):
            return False
        self._items = kept
        return True

    def leads_on_from(self, held: int | None) -> bool:
        """Tell whether a replica that holds everything up to `held` can go on with what is here."""
        first = self._items[0] if self._items else None
        if isinstance(first, Base):
            return True
        if held is None:
            return False
        return held == self.number if first is None else first.number <= held + 1 <= self.number + 1

    def after(self, sent: Item | None, held: int | None) -> Item | None:
        """Return what comes after `sent` or, on a new connection, after `held`; None: nothing yet."""
        for item in self._items:
            if sent is not None and _precedes(sent, item):
                return item
            if sent is None and (held is None or item.number > held):
                return item
        return None

    def drop(self) -> None:
        """Forget all of it: the next replica begins with a base, and the last one's memory is its own affair."""
        self._items.clear()
        self._read_in_place.clear()
        self.backlog_bytes = 0

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)


def _precedes(one: Item, other: Item) -> bool:
    """Tell whether `other` comes later; a base comes after the record whose number it has."""
    return (one.number, isinstance(one, Base)) < (other.number, isinstance(other, Base))


def _kept(item: Item, copied: Copied) -> Item:
    if isinstance(item, Base) or item.loan is None:
        return item
    return replace(item, payload=copied(item.payload), loan=None)
