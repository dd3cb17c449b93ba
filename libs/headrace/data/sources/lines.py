"""Files of rows that end with a newline: found out once, by reading them through, which bytes hold how many rows."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headrace.data.permutation import Int64s
from headrace.data.storage import File
from headrace.errors import DataUnreadable

BLOCK_BYTES = (
    4 << 20
)  # large enough that the cost of each parse does not show, small enough to mix many in little memory
_PIECE = 2 << 20  # bytes looked at together: a few times as many are needed to look
_NEWLINE, _QUOTE, _RETURN = b'\n"\r'


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file that hold whole rows; `first_row` counts the file's rows from 0, without a header."""

    file: int
    start: int
    end: int
    rows: int
    first_row: int


def spans_of(files: Sequence[File], starts: Sequence[int], *, quoted: bool, block_bytes: int) -> list[Span]:
    """Divide files into spans of about `block_bytes`, at least one row each. Empty lines are no rows.

    Args:
        starts: Where the first row of each file begins.
        quoted: Whether a newline between double quotes belongs to its row (RFC 4180).
    Raises:
        DataUnreadable: There is no row at all.
    """
    spans = [
        span
        for index, file in enumerate(files)
        for span in _spans(file, index, starts[index], quoted, block_bytes)
        if span.rows
    ]
    if not spans:
        raise DataUnreadable(f"{files[0].name} and the other files have no rows")
    return spans


def first_line(file: File, *, quoted: bool) -> tuple[bytes, int]:
    """Return the first row of a file that is not empty, and where the next one begins."""
    start = 0
    for ends, filled in _ends(file, 0, quoted):
        for end, is_row in zip(ends.tolist(), filled.tolist(), strict=True):
            if is_row:
                return file.read(start, end), end
            start = end
    return b"", file.size


def row_of(message: str, span: Span) -> str:
    """Say which rows a message of Arrow's is about: one if it names one, else all. It counts "Row #" from 1, "row" from 0."""
    if found := re.search(r"(Row #|row )(\d+)", message):
        return f"row {span.first_row + int(found[2]) - (found[1] == 'Row #')}"
    return f"rows {span.first_row} to {span.first_row + span.rows - 1}"


def _spans(file: File, index: int, begin: int, quoted: bool, block_bytes: int) -> Iterator[Span]:
    start, rows, first = begin, 0, 0
    for ends, filled in _ends(file, begin, quoted):
        done = 0
        while (cut := int(np.searchsorted(ends, start + block_bytes))) < len(ends):
            rows += int(filled[done : cut + 1].sum())
            yield Span(index, start, int(ends[cut]), rows, first)
            start, first, rows, done = int(ends[cut]), first + rows, 0, cut + 1
        rows += int(filled[done:].sum())
    yield Span(index, start, file.size, rows, first)


def _ends(
    file: File, begin: int, quoted: bool
) -> Iterator[tuple[Int64s, "np.ndarray[tuple[int], np.dtype[np.bool_]]"]]:
    """Yield, piece by piece, where rows end, and whether each is more than an empty line."""
    quotes, last_end, last_byte = 0, begin, _NEWLINE
    for start in range(begin, file.size, _PIECE):
        piece = np.frombuffer(file.read(start, min(start + _PIECE, file.size)), np.uint8)
        newlines = np.flatnonzero(piece == _NEWLINE)
        if quoted:
            marks = np.flatnonzero(piece == _QUOTE)
            newlines = newlines[(quotes + np.searchsorted(marks, newlines)) % 2 == 0]
            quotes += len(marks)
        if start + len(piece) == file.size and piece[-1] != _NEWLINE:
            newlines = np.append(newlines, len(piece))  # the last row may end with the file
        ends = np.minimum(start + newlines + 1, file.size)
        lengths = start + newlines - np.concatenate([[last_end], ends[:-1]])
        before = piece[
            newlines - 1
        ]  # the byte that precedes each newline; that of the first may be in the piece before
        if len(newlines) and newlines[0] == 0:
            before[0] = last_byte
        yield ends, (lengths > 1) | ((lengths == 1) & (before != _RETURN))
        last_byte, last_end = int(piece[-1]), int(ends[-1]) if len(ends) else last_end
