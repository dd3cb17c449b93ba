"""From the files of a store back to the shard they were written from: the newest sound snapshot, then the log, change by change.

The changes go through the same core in the same order, so values and optimizer state are the same to the bit. A record that is cut
off or damaged at the very end was being written when the process died: the log ends before it. Damage anywhere else means that
something acknowledged is missing, and then the store is not recovered at all. What has a lower sequence number than the log has
reached is of an older segment, over which this one was written.
"""

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from headrace.errors import DataLoss, HeadraceError, NonFiniteValues, ProgramFailed
from headrace_optimizers.config import Registered
from headrace_parameters.core.config import StoreConfig
from headrace_parameters.core.contents import Contents
from headrace_parameters.core.kinds import Change, make
from headrace_parameters.core.memory import ValueMemory
from headrace_parameters.core.record import BadRecord, UnknownKind, decode, separated, sequences_after
from headrace_parameters.core.resuming import resumed
from headrace_parameters.core.shard import Shard
from headrace_parameters.core.state import ShardState
from headrace_parameters.journal.log import find_segments
from headrace_parameters.journal.row_files import Chains, remove_rows
from headrace_parameters.journal.snapshot_files import SnapshotFile, find_snapshots
from headrace_parameters.journal.tensor_files import Damaged

if TYPE_CHECKING:
    from headrace_parameters.core.rows.shard import RowShard


@dataclass
class Recovered:
    """What came back.

    Args:
        sequence: Number of the next change.
        tail: The segment to go on with.
        end: Where the next record begins in it.
        changes: How many were made again.
        cut_bytes: Length of what was cut off at the end, from an unfinished record on.
        notes: What was found damaged, and got around.
        tables: Rows by name of their table; a store without values has none yet.
        chains: The files that they are in.
        unsound: Names of the snapshots that were got around.
    """

    shard: Shard
    sequence: int
    tail: Path
    end: int = 0
    changes: int = 0
    cut_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    tables: "Mapping[str, RowShard]" = field(default_factory=dict)
    chains: Chains = field(default_factory=Chains)
    unsound: frozenset[str] = frozenset()

    @property
    def contents(self) -> Contents:
        """All that came back."""
        return Contents(self.shard, self.tables)


def recover(folder: Path, config: StoreConfig, memory: ValueMemory | None = None) -> Recovered:
    """Rebuild the shard whose files are in `folder`, and cut the log where it ends.

    Args:
        memory: Gives the memory for its values.
    Raises:
        DataLoss: What is there does not suffice to know every acknowledged change.
    """
    snapshots, segments, notes = find_snapshots(folder), find_segments(folder), list[str]()
    for number, snapshot in enumerate(snapshots):
        try:
            found = _from_snapshot(snapshot, config, memory, segments)
            _check_reaches(found.sequence, snapshots)
        except (Damaged, HeadraceError) as error:
            notes.append(str(error))
            continue
        found.notes += notes
        found.unsound = frozenset(each.path.name for each in snapshots[:number])
        return _trimmed(found, segments)
    if segments and not snapshots and not any(path.stat().st_size for _, path in segments):
        return _trimmed(Recovered(Shard(config, memory), *segments[0]), segments)  # it never had values
    raise DataLoss(
        f"{config.name} of epoch {config.epoch} cannot be recovered from {folder}: {'; '.join(notes) or 'files are missing'}; "
        "it is not served: go on from a checkpoint in a greater epoch, or delete it"
    )


def _check_reaches(sequence: int, snapshots: list[SnapshotFile]) -> None:
    """Refuse an end of the log that lies before a snapshot which, sound or not, was once written."""
    if snapshots and sequence < snapshots[0].sequence:
        raise Damaged(f"the log ends at {sequence}, before {snapshots[0].path.name}")


def _from_snapshot(
    snapshot: SnapshotFile, config: StoreConfig, memory: ValueMemory | None, segments: list[tuple[int, Path]]
) -> Recovered:
    loaded = snapshot.load()
    shard = resumed(loaded.state, config, memory)
    tables = _tables(shard, loaded.state)
    following = [segment for segment in segments if segment[0] >= snapshot.sequence]
    if not following or following[0][0] != snapshot.sequence:
        raise Damaged(f"the log that follows {snapshot.path.name} is missing")
    found = Recovered(shard, snapshot.sequence, following[0][1], tables=tables, chains=loaded.chains)
    _make_waiting(found, loaded.waiting)
    for index, (first, path) in enumerate(following):
        if first != found.sequence:
            if _has_records(following[index:], found.sequence):
                raise Damaged(f"the log has a gap before {path.name}: {found.sequence} is missing")
            break  # the beginning of a snapshot that was never finished
        found.tail = path
        _replay(path, found)
        if found.cut_bytes and _has_records(following[index + 1 :], found.sequence):
            raise Damaged(f"{path.name} is damaged before its end")
    return found


def _tables(shard: Shard, state: ShardState) -> dict[str, "RowShard"]:
    """Return the tables of a state. Nobody is asked for memory: what was acknowledged was within the bounds of its time."""
    if not state.tables:
        return {}
    # Here: it takes a third of a second to import what compiles loops, which no process without a table needs.
    from headrace_parameters.core.rows.held import ClippedTables
    from headrace_parameters.core.rows.shard import RowShard

    tables: dict[str, RowShard] = {}
    for name, rows in state.tables.items():
        assert rows.declaration is not None, "journals came later than declarations in snapshots"
        tables[name] = RowShard(shard.config, rows.declaration, lambda _: None, shard.members)
        tables[name].restore(rows, shard.members)
    if shard.config.maximum_gradient_norm:
        shard.clip_with(ClippedTables(tables))
    return tables


def _make_waiting(found: Recovered, records: bytes) -> None:
    """Make what had been made when a snapshot was taken, and waited for something."""
    try:
        for change in separated(memoryview(bytearray(records)), found.shard.members.generation):
            make(found.contents, change)
    except (BadRecord, UnknownKind) as error:
        raise Damaged(f"a gradient in a snapshot cannot be read: {error}") from error


def _replay(path: Path, found: Recovered) -> None:
    """Make again what a segment holds, up to the first bytes that are no record, or one of an older segment."""
    data = _content(path)
    found.end = found.cut_bytes = 0
    while found.end < data.nbytes:
        # As of the changes before: that of the members is one of them.
        generation = found.shard.members.generation
        try:
            entry = decode(data[found.end :], generation)
        except (BadRecord, HeadraceError) as error:
            _check_last(data, path, found, str(error))
            found.cut_bytes = data.nbytes - found.end
            return
        except UnknownKind as error:
            raise Damaged(f"{path.name} cannot be read: {error}") from error
        if entry.epoch == found.shard.config.epoch and entry.sequence < found.sequence:
            _check_last(data, path, found, f"record {entry.sequence} is of an older segment")
            return
        if (entry.sequence, entry.epoch) != (found.sequence, found.shard.config.epoch):
            raise Damaged(f"{path.name} holds record {entry.sequence} where {found.sequence} must be")
        if not _made(found, entry.sequence, entry.change):
            raise Damaged(f"{path.name} holds the change of record {entry.sequence} twice")
        found.end += entry.size_bytes
        found.sequence += 1
        found.changes += 1


def _made(found: Recovered, sequence: int, change: Change) -> bool:
    """Make a change again; return False if it was made before.

    A user's own update fails again where it failed: that change was refused and not applied, and it may have been sent again, which is
    another record.
    """
    if not isinstance(found.shard.config.optimizer, Registered):
        return make(found.contents, change)
    try:
        make(found.contents, change)
    except (ProgramFailed, NonFiniteValues) as error:
        found.notes.append(f"record {sequence} was not applied, as when it was written: {error}")
    return True


def _check_last(data: memoryview, path: Path, found: Recovered, why: str) -> None:
    """Raise Damaged if records follow where the log seems to end."""
    if any(sequence >= found.sequence for sequence in sequences_after(data, found.end + 1)):
        raise Damaged(f"{path.name} is damaged at byte {found.end}: {why}")


def _has_records(segments: list[tuple[int, Path]], least: int) -> bool:
    """Tell whether there are any from number `least` on."""
    return any(sequence >= least for _, path in segments for sequence in sequences_after(_content(path), 0))


def _content(path: Path) -> memoryview:
    """Map a file; empty if it is. What is written to the mapping does not reach the file; it ends with the last view of it."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _trimmed(found: Recovered, segments: list[tuple[int, Path]]) -> Recovered:
    """Cut off what is behind the last record, so that the next one begins where that one ends."""
    if found.tail.stat().st_size > found.end:
        os.truncate(found.tail, found.end)
    for _, path in segments:
        if path > found.tail:
            path.unlink()
    folder = found.tail.parent
    remove_rows(folder, {name for each in find_snapshots(folder) for name in each.row_files()})
    return found
