"""The kinds of changes that are made to a store after its first values, and how each becomes a record and is made again.

A change is an object of the core. What it is on a disk, and on its way to a replica, is said here alone, by a `Kind` with a magic of its own;
what it does is said by `takes` and `make`. Logs, replicas, recovery and `LiveStore` know changes and records, but no kinds.

To add one: a frozen class for the change where its rules are; here its place in `Change`, a `Kind` in `KINDS` with a new magic, and its line in
`kind_of`, `intact`, `takes` and `make`. Its payload is a multiple of 4 bytes long. No magic is ever given to anything else: old logs stay readable.
"""

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np

from headrace.parameters.layout import Floats
from headrace_parameters.core.config import Norms
from headrace_parameters.core.contents import Contents
from headrace_parameters.core.exchange import Loan, Push
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.members import MembersChange
from headrace_parameters.core.rows.push import RowPush, TablePush

Change: TypeAlias = Push | StepNorms | MembersChange | TablePush
C = TypeVar("C")

_COUNT = np.dtype("<u4")
_EDGE = np.dtype("<u8")
_TABLE = struct.Struct("<II")  # the bytes of a table's name, and the values of a row
_KEY = np.dtype("<u8")
_NUMBER = np.dtype("<f8")
_WORKER = np.dtype("<u4")
_GENERATION = np.dtype("<u8")
# As numbers that no other norms are ever given.
_NORMS = {Norms.GRADIENT: 1, Norms.TENSORS: 2}


@dataclass(frozen=True)
class Facts:
    """What of a change is in the header of its record; a kind that has no use for one leaves it 0."""

    worker: int = 0
    step: int = 0
    samples: float = 0.0


@dataclass(frozen=True)
class Origin:
    """What a record does not say of its change.

    Args:
        generation: Of the members at that time, whom the base and the changes before it have led to.
        checked: Whether the process that sent it has looked at it.
    """

    generation: int = 0
    checked: bool = False


@dataclass(frozen=True)
class Kind(Generic[C]):
    """How changes of one kind are written and read.

    Args:
        magic: 4 bytes that its records begin with.
        write: Returns the facts and the payload; the latter may share the change's memory.
        read: Makes the change of these again; it may share the payload's memory, which is writable.
    """

    magic: bytes
    write: Callable[[C], tuple[Facts, memoryview]]
    read: Callable[[Facts, memoryview, Origin], C]


def _facts_of(push: Push) -> Facts:
    return Facts(push.worker, push.step, push.samples)


def _write_push(push: Push) -> tuple[Facts, memoryview]:
    return _facts_of(push), np.ascontiguousarray(push.gradient, "<f4").view(np.uint8).data


def _read_push(facts: Facts, payload: memoryview, origin: Origin) -> Push:
    return _push(facts, payload, origin, None)


def _write_partial(push: Push) -> tuple[Facts, memoryview]:
    assert push.covers is not None
    facts, gradient = _write_push(push)
    return facts, memoryview(_covers_bytes(push.covers) + bytes(gradient))


def _read_partial(facts: Facts, payload: memoryview, origin: Origin) -> Push:
    covers, start = _read_covers(payload)
    return _push(facts, payload[start:], origin, covers)


def _push(facts: Facts, gradient_bytes: memoryview, origin: Origin, covers: tuple[range, ...] | None) -> Push:
    gradient: Floats = np.frombuffer(gradient_bytes, "<f4").astype(np.float32, copy=False)
    worker, step, samples = facts.worker, facts.step, facts.samples
    return Push(worker, step, samples, gradient, origin.generation, covers, checked=origin.checked)


def _covers_bytes(covers: Sequence[range]) -> bytes:
    """Return how many parts there are, and where each begins and ends."""
    edges = np.array([[part.start, part.stop] for part in covers], _EDGE)
    return np.array([len(covers)], _COUNT).tobytes() + edges.tobytes()


def _read_covers(payload: memoryview) -> tuple[tuple[range, ...], int]:
    """Return the parts a payload begins with, and where its gradient begins."""
    count = int(np.frombuffer(payload, _COUNT, 1)[0])
    edges = np.frombuffer(payload, _EDGE, 2 * count, _COUNT.itemsize).reshape(-1, 2)
    covers = tuple(range(int(start), int(stop)) for start, stop in edges)
    return covers, _COUNT.itemsize + 2 * count * _EDGE.itemsize


def _write_norms(told: StepNorms) -> tuple[Facts, memoryview]:
    kind = np.array([_NORMS[told.norms]], _COUNT).tobytes()
    return Facts(step=told.step), memoryview(kind + np.array(told.squared, _NUMBER).tobytes())


def _read_norms(facts: Facts, payload: memoryview, _: Origin) -> StepNorms:
    kind = int(np.frombuffer(payload, _COUNT, 1)[0])
    (norms,) = (norms for norms, number in _NORMS.items() if number == kind)
    squared = np.frombuffer(payload, _NUMBER, offset=_COUNT.itemsize)
    return StepNorms(facts.step, norms, tuple(squared.tolist()))


def _write_members(change: MembersChange) -> tuple[Facts, memoryview]:
    generation = np.array([change.generation], _GENERATION).tobytes()
    return Facts(), memoryview(generation + np.array(change.workers, _WORKER).tobytes())


def _read_members(_facts: Facts, payload: memoryview, _: Origin) -> MembersChange:
    generation = int(np.frombuffer(payload, _GENERATION, 1)[0])
    workers = np.frombuffer(payload, _WORKER, offset=_GENERATION.itemsize)
    return MembersChange(generation, tuple(workers.tolist()))


def _write_rows(change: TablePush) -> tuple[Facts, memoryview]:
    """Write the table's name, with zeros up to a multiple of 8 bytes, the keys, and their gradients."""
    push, name = change.push, change.table.encode()
    head = _TABLE.pack(len(name), push.gradient.shape[1]) + name.ljust(-(-len(name) // 8) * 8, b"\0")
    keys, gradient = np.asarray(push.keys, _KEY), np.ascontiguousarray(push.gradient, "<f4")
    parts = [np.frombuffer(head, np.uint8), keys.view(np.uint8), gradient.reshape(-1).view(np.uint8)]
    return Facts(push.worker, push.step, push.samples), np.concatenate(parts).data


def _read_rows(facts: Facts, payload: memoryview, origin: Origin) -> TablePush:
    length, dim = _TABLE.unpack_from(payload)
    name = bytes(payload[_TABLE.size : _TABLE.size + length]).decode()
    start = _TABLE.size + -(-length // 8) * 8
    count = (payload.nbytes - start) // (_KEY.itemsize + 4 * dim)
    # Copied: records lie at multiples of 4 bytes, and compiled loops want keys at multiples of 8.
    keys = np.frombuffer(payload, _KEY, count, start).astype(np.uint64)
    values = np.frombuffer(payload[start + _KEY.itemsize * count :], "<f4").astype(np.float32, copy=False)
    gradient = values.reshape(count, dim)
    worker, step, samples = facts.worker, facts.step, facts.samples
    push = RowPush(worker, step, samples, keys, gradient, origin.generation, checked=origin.checked)
    return TablePush(name, push)


PUSH = Kind(b"HRP1", _write_push, _read_push)
PARTIAL_PUSH = Kind(b"HRP2", _write_partial, _read_partial)
STEP_NORMS = Kind(b"HRN1", _write_norms, _read_norms)
MEMBERS = Kind(b"HRM1", _write_members, _read_members)
TABLE_PUSH = Kind(b"HRT1", _write_rows, _read_rows)
KINDS: Mapping[bytes, Kind[Any]] = {
    kind.magic: kind for kind in (PUSH, PARTIAL_PUSH, STEP_NORMS, MEMBERS, TABLE_PUSH)
}


def kind_of(change: Change) -> Kind[Any]:
    """Say how a change is written."""
    match change:
        case Push():
            return PUSH if change.covers is None else PARTIAL_PUSH
        case StepNorms():
            return STEP_NORMS
        case MembersChange():
            return MEMBERS
        case TablePush():
            return TABLE_PUSH


def intact(change: Change) -> bool:
    """Tell whether what a change shares with its maker has been as it was until now."""
    match change:
        case Push():
            return change.holds
        case StepNorms() | MembersChange() | TablePush():
            return True


def loan_of(change: Change) -> Loan | None:
    """Return by what the payload of a change's record is in a worker's memory; None: it is in this process's own."""
    match change:
        case Push(covers=None):
            return change.loan
        case Push() | StepNorms() | MembersChange() | TablePush():  # payloads put together from parts
            return None


def takes(contents: Contents, change: Change) -> bool:
    """Tell whether `make` would change anything, or raise what it would; changes nothing."""
    match change:
        case Push():
            return contents.shard.takes(change)
        case StepNorms():
            return contents.shard.waits_for(change)
        case MembersChange():
            return contents.shard.changes_members(change)
        case TablePush():
            return change.table in contents.tables and contents.tables[change.table].takes(change.push)


def make_room(contents: Contents, change: Change) -> None:
    """Make sure that nothing keeps `make` from making what it `takes`: to be called before it is written.

    Raises:
        QuotaExceeded, ResourceExhausted: There is no room for it; nothing has changed.
    """
    if isinstance(change, TablePush):
        contents.tables[change.table].make_room(change.push)


def make(contents: Contents, change: Change) -> bool:
    """Make a change; return False, with nothing changed, if it was made before or comes too late.

    Raises:
        HeadraceError: It was refused; nothing has changed.
        GradientLost: As `Shard.push`.
    """
    match change:
        case Push():
            return contents.shard.push(change)
        case StepNorms():
            return contents.shard.finish_step(change)
        case MembersChange():
            for rows in contents.tables.values():
                rows.change_members(change.generation, change.workers)
            return contents.shard.change_members(change)
        case TablePush():
            made = change.table in contents.tables and contents.tables[change.table].push(change.push)
            contents.shard.take_rows()  # which a dense step may wait for
            return made
