"""The segments in which workers of this machine lend their gradients, mapped to read."""

import os
import select
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from headrace.errors import Cancelled, NotFound, ShapeMismatch, SharedMemoryUnavailable
from headrace.names import StoreName
from headrace.parameters.layout import Floats
from headrace.parameters.segments import MappedSegment
from headrace.parameters.v1.shared_memory_pb2 import Segment, SharedSpan, SharedValues
from headrace_parameters.core.exchange import Loan
from headrace_parameters.live import LiveStore


@dataclass(frozen=True)
class _Held:
    store: LiveStore
    mapped: MappedSegment
    process: int  # a pidfd: other than a pid, it never means another process


@dataclass(frozen=True)
class SegmentLoan:
    """What a worker has lent, as `Loan`: until it changes its segment's sequence, or takes the gradient back."""

    mapped: MappedSegment
    where: SharedValues
    ended: Callable[[], tuple[bytes, int]]

    def holds(self) -> bool:
        """Tell whether the gradient has been in its place until now."""
        nonce, sequence = self.ended()
        over = nonce == self.mapped.nonce and self.where.sequence <= sequence
        return not over and self.mapped.is_current(self.where)

    def pass_on(self) -> SharedValues:
        """Say where another process of this machine finds the gradient, while the loan holds and this process is there."""
        return self.mapped.pass_on(self.where)


class GradientSegments:
    """At most one segment per worker of each store; each is let go when its worker, or the store, is gone.

    Args:
        find: Returns the store of a name, or raises NotFound.
    """

    def __init__(self, find: Callable[[StoreName], LiveStore]) -> None:
        self._find = find
        self._lock = threading.Lock()
        self._held: dict[tuple[StoreName, int], _Held] = {}
        self._ended: dict[tuple[StoreName, int], tuple[bytes, int]] = {}  # the last loan that was taken back

    @property
    def count(self) -> int:
        """How many are mapped."""
        return len(self._held)

    def workers(self) -> set[tuple[StoreName, int]]:
        """Return the stores and workers whose segments are mapped."""
        with self._lock:
            return set(self._held)

    def read(self, store: LiveStore, worker: int, where: SharedValues) -> Iterator[Floats]:
        """Yield the parts of the gradient, where they lie, and check afterwards that what was copied of it is all of one push.

        Raises:
            SharedMemoryUnavailable: The segment cannot be read here.
            ShapeMismatch: It is too small.
            Cancelled: The worker has withdrawn the gradient.
        """
        mapped = self._map(store, worker, where.segment)
        parts: list[SharedValues | SharedSpan] = [where, *where.further]
        for part in parts:
            yield _part(mapped, part)
        if not mapped.is_current(where):
            raise Cancelled(f"worker {worker} withdrew the gradient while it was read; nothing was applied")

    def lend(self, store: LiveStore, worker: int, where: SharedValues) -> tuple[Floats, Loan]:
        """Return a gradient that lies in one piece, where it lies, and what tells how long it does.

        Raises:
            SharedMemoryUnavailable, ShapeMismatch: As `read`.
        """
        mapped, key = self._map(store, worker, where.segment), (store.config.name, worker)
        return _part(mapped, where), SegmentLoan(mapped, where, lambda: self._ended.get(key, (b"", 0)))

    def take_back(self, store: LiveStore, worker: int, nonce: bytes, sequence: int) -> None:
        """Read nothing any more of what was lent as this sequence or an earlier one."""

        def end() -> None:
            self._ended[store.config.name, worker] = nonce, sequence

        store.take_back(end)

    def release(self, store: StoreName, worker: int, nonce: bytes) -> None:
        """Let go of a worker's segment, if it is this one."""
        with self._lock:
            held = self._held.get((store, worker))
            if held and held.mapped.nonce == nonce:
                self._drop((store, worker))

    def sweep(self) -> None:
        """Let go of the segments whose worker or store is gone."""
        with self._lock:
            for key, held in list(self._held.items()):
                if _has_ended(held.process) or not self._is_current(key[0], held.store):
                    self._drop(key)
            self._ended = {key: loan for key, loan in self._ended.items() if key in self._held}

    def _map(self, store: LiveStore, worker: int, segment: Segment) -> MappedSegment:
        key = (store.config.name, worker)
        with self._lock:
            held = self._held.get(key)
            if held and held.store is store and held.mapped.nonce == segment.nonce:
                return held.mapped
            process = _open_process(segment.pid)
            try:
                # Writable, because torch asks for that; nobody writes.
                mapped = MappedSegment(segment, writable=True, passed_on=store.config.durability.replicated)
            except SharedMemoryUnavailable:
                os.close(process)
                raise
            if held:
                self._drop(key)
            self._held[key] = _Held(store, mapped, process)
            return mapped

    def _is_current(self, name: StoreName, store: LiveStore) -> bool:
        try:
            return self._find(name) is store
        except NotFound:
            return False

    def _drop(self, key: tuple[StoreName, int]) -> None:
        os.close(self._held.pop(key).process)  # the memory itself goes with the last gradient that lies in it
        self._ended.pop(key, None)


def _part(mapped: MappedSegment, where: SharedValues | SharedSpan) -> Floats:
    if where.offset + where.count > mapped.values.size:
        raise ShapeMismatch(
            f"{where.count} values from {where.offset} on do not lie in a segment of {mapped.values.size}"
        )
    return mapped.part(where)


def _open_process(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except (OSError, OverflowError) as error:
        raise SharedMemoryUnavailable(
            f"there is no process {pid} here: the worker is on another machine, or in another container"
        ) from error


def _has_ended(process: int) -> bool:
    looking = select.poll()  # not select(), which takes no descriptor above 1023
    looking.register(process, select.POLLIN)
    return bool(looking.poll(0))
