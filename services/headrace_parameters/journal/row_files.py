"""The rows of a store's tables beside its snapshots: for each table a chain of files, each with what changed since the one before.

A snapshot names the newest file of each table, and that names those before it. So rows that did not change cost a snapshot nothing. When the
files behind the first one are as large as that, all of them become one: each row is written about twice for every time it has changed.

    rows-<sequence>-<table's place>-<crc32c>.safetensors
"""

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from headrace.errors import HeadraceError
from headrace.parameters.keys import Indices
from headrace_parameters.core.rows.chain import newest
from headrace_parameters.core.rows.state import Moment, TableState
from headrace_parameters.journal.files import TEMPORARY, sync_folder
from headrace_parameters.journal.tensor_files import Bytes, Column, Damaged, read, read_metadata, write_over

_NEW = f"rows{TEMPORARY}"
_NAME = re.compile(r"rows-[0-9]{20}-[0-9]{4}-([0-9a-f]{8})\.safetensors")
_TABLE, _FACTS, _BEFORE = "table", "facts", "before"  # of the metadata
_GATHERED_ROWS = 1 << 14  # at a time, when files become one
_ROW_COLUMNS = ("keys", "values", "state", "touched")


@dataclass(frozen=True)
class Chains:
    """What of the rows is in files.

    Args:
        files: Names by table, oldest first.
        moments: When the newest file's state was taken, by table.
    """

    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    moments: Mapping[str, Moment] = field(default_factory=dict)

    @property
    def heads(self) -> dict[str, str]:
        """The newest file of each table: what a snapshot must name."""
        return {table: names[-1] for table, names in self.files.items()}

    @property
    def names(self) -> set[str]:
        """All files."""
        return {name for names in self.files.values() for name in names}


def write_rows(folder: Path, sequence: int, tables: Mapping[str, TableState], chains: Chains) -> Chains:
    """Write the rows of a snapshot, and return what there is then; the former files stay.

    Args:
        tables: Of all tables the state: what has changed since `chains.moments`, or all of it.
    Raises:
        OSError: It could not be written; there is nothing of it.
        Damaged: A former file is not what was written, or there is none; nothing is written, and the next states must have all rows.
    """
    made: list[Path] = []
    files: dict[str, tuple[str, ...]] = {}
    try:
        for place, (table, state) in enumerate(tables.items()):
            former = _followed_by(state, chains.files.get(table, ()))
            stem = f"rows-{sequence:020}-{place:04}"
            if _shall_be_one(folder, former, state):
                former, columns = (), _in_one(folder, former, state)
            else:
                columns = {name: Column.of(tensor) for name, tensor in state.encode()[0].items()}
            made.append(_write(folder, stem, columns, table, state, former))
            files[table] = (*former, made[-1].name)
        if made:
            sync_folder(folder)
    except (OSError, Damaged):
        for path in made:
            path.unlink(missing_ok=True)
        raise
    return Chains(files, {table: state.moment for table, state in tables.items()})


def read_rows(folder: Path, heads: Mapping[str, str]) -> tuple[dict[str, TableState], Chains]:
    """Return the tables whose newest files these are, and the chains to go on with.

    Raises:
        Damaged: A file is not what was written, or not there.
    """
    states = {table: _read_chain(folder, head) for table, head in heads.items()}
    files = {table: names for table, (_, names) in states.items()}
    moments = {table: state.moment for table, (state, _) in states.items()}
    return {table: state for table, (state, _) in states.items()}, Chains(files, moments)


def names_in(folder: Path, heads: Mapping[str, str]) -> set[str]:
    """Return the names of all files of these chains, as far as they can be read."""
    names = set(heads.values())
    for head in heads.values():
        with suppress(Damaged):
            names.update(_before(read_metadata(folder / head)))
    return names


def remove_rows(folder: Path, kept: Collection[str]) -> None:
    """Remove the files of rows but these."""
    for path in folder.glob("rows-*"):
        if path.name not in kept:
            path.unlink(missing_ok=True)


def _followed_by(state: TableState, files: tuple[str, ...]) -> tuple[str, ...]:
    """Return the files that a state goes on from."""
    if state.since and not files:
        raise Damaged("the files that the rows go on from are of no use any more")
    return files if state.since else ()


def _write(
    folder: Path,
    stem: str,
    columns: Mapping[str, Column],
    table: str,
    state: TableState,
    former: Sequence[str],
) -> Path:
    facts = {_TABLE: table, _FACTS: json.dumps(state.encode()[1]), _BEFORE: json.dumps(former)}
    temporary = folder / _NEW
    try:
        crc = write_over(temporary, columns, facts)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary.replace(folder / f"{stem}-{crc:08x}.safetensors")


def _read_chain(folder: Path, head: str) -> tuple[TableState, tuple[str, ...]]:
    state, metadata = _read(folder, head)
    before = _before(metadata)
    return replace(state, before=tuple(_read(folder, name)[0] for name in before)), (*before, head)


def _read(folder: Path, name: str) -> tuple[TableState, Mapping[str, str]]:
    match = _NAME.fullmatch(name)
    if not match:
        raise Damaged(f"{name} is no name of a file of rows")
    tensors, metadata = read(folder / name, int(match[1], 16))
    try:
        return TableState.decode(tensors, json.loads(metadata[_FACTS])), metadata
    except (HeadraceError, KeyError, ValueError) as error:
        raise Damaged(f"{name} cannot be read: {error}") from error


def _before(metadata: Mapping[str, str]) -> list[str]:
    return [str(name) for name in json.loads(metadata.get(_BEFORE, "[]"))]


def _shall_be_one(folder: Path, former: Sequence[str], state: TableState) -> bool:
    """Whether what came behind the first file, `state` too, is as large as that; Damaged if one of them is gone."""
    if not former:
        return False
    try:
        first, *behind = [(folder / name).stat().st_size for name in former]
    except FileNotFoundError as error:  # no lack of room, which the next try may not meet
        raise Damaged(f"{error.filename} is gone") from error
    new = sum(tensor.nbytes for tensor in state.encode()[0].values())
    return sum(behind) + new >= first


def _in_one(folder: Path, former: Sequence[str], state: TableState) -> dict[str, Column]:
    """Return the columns of a file that has all rows of some files, and of a state that follows them."""
    parts = [*(_read(folder, name)[0] for name in former), state]
    chosen = newest(parts)
    rows = sum(part.size for part in chosen)
    tensors = replace(state, removed=state.removed[:0]).encode()[0]
    columns = {name: Column.of(tensor) for name, tensor in tensors.items()}
    for name in _ROW_COLUMNS:
        of_row = tensors[name].shape[1:]
        size_bytes = rows * math.prod(of_row) * tensors[name].element_size()
        shape = (rows, *of_row)
        columns[name] = Column(columns[name].dtype, shape, size_bytes, _gathered(parts, chosen, name))
    return columns


def _gathered(parts: Sequence[TableState], chosen: Sequence[Indices], name: str) -> Iterator[Bytes]:
    for part, rows in zip(parts, chosen, strict=True):
        array = getattr(part, name).numpy()
        for start in range(0, rows.size, _GATHERED_ROWS):
            yield np.ascontiguousarray(array[rows[start : start + _GATHERED_ROWS]]).reshape(-1).view(np.uint8)
