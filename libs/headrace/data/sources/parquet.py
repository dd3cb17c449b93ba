"""Parquet: a block is a row group, the footer says how many rows it has, and only the columns asked for are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from headrace.data.arrow import arrays_of
from headrace.data.columns import Array, Columns, check_column
from headrace.data.needed import needed
from headrace.data.permutation import Int64s
from headrace.data.storage import File, FileStream
from headrace.errors import DataUnreadable
from headrace.program import Examples

_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 8, "FLOAT": 4, "DOUBLE": 8}  # bytes of a value


class ParquetSource:
    """Row groups of Parquet files. Footers are read when it is made, and kept."""

    def __init__(self, files: Sequence[File], columns: Columns) -> None:
        needed("pyarrow", "reading Parquet")
        self._files, self._columns = files, columns
        self._footers = [_footer(file, columns) for file in files]
        _check_alike(self._footers, files, columns)
        self._groups = [
            (index, group)
            for index, footer in enumerate(self._footers)
            for group in range(footer.num_row_groups)
            if footer.row_group(group).num_rows
        ]
        if not self._groups:
            raise DataUnreadable(f"{files[0].name} and the other files have no rows")
        groups = [self._footers[index].row_group(group) for index, group in self._groups]
        self.block_rows: Int64s = np.array([group.num_rows for group in groups], np.int64)
        self.block_bytes = max(_decoded_bytes(group, set(columns.names)) for group in groups)
        self._first_rows = _first_rows(self._groups, self.block_rows)

    def read(self, block: int) -> Examples:
        """Return a row group; see `Source.read`."""
        return self._columns.examples(self._read(block, self._columns.names))

    def keys(self, block: int, column: str) -> Array:
        """Return a column of a row group; see `Source.keys`."""
        index, _ = self._groups[block]
        check_column(column, self._footers[index].schema.to_arrow_schema().names, self._files[index].name)
        return self._read(block, [column])[column]

    def _read(self, block: int, names: list[str]) -> dict[str, Array]:
        import pyarrow.parquet as pq

        index, group = self._groups[block]
        file = self._files[index]
        with _explained(file, f"row group {group}"):
            opened = pq.ParquetFile(FileStream(file), metadata=self._footers[index], pre_buffer=True)
            table = opened.read_row_group(group, columns=names, use_threads=False)
        return arrays_of(table, file.name, int(self._first_rows[block]))


def _footer(file: File, columns: Columns) -> Any:
    import pyarrow.parquet as pq

    with _explained(file, "the footer"):
        footer = pq.read_metadata(FileStream(file))
        names = footer.schema.to_arrow_schema().names
    columns.check(names, file.name)
    return footer


def _check_alike(footers: Sequence[Any], files: Sequence[File], columns: Columns) -> None:
    """Refuse files whose columns are of different types."""
    first = footers[0].schema.to_arrow_schema()
    for footer, file in zip(footers, files, strict=True):
        schema = footer.schema.to_arrow_schema()
        for name in columns.names:
            if schema.field(name).type != first.field(name).type:
                raise DataUnreadable(
                    f"column {name!r} is {first.field(name).type} in {files[0].name} and {schema.field(name).type} in "
                    f"{file.name}; write all files alike"
                )


@contextmanager
def _explained(file: File, part: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataUnreadable(
            f"{part} of {file.name} is no good Parquet: {str(error).splitlines()[0]}; write the file anew"
        ) from error


def _decoded_bytes(group: Any, names: set[str]) -> int:
    """Estimate the memory of a row group's columns once they are arrays."""
    total = 0
    for index in range(group.num_columns):
        column = group.column(index)
        if column.path_in_schema.split(".")[0] in names:
            width = _WIDTHS.get(column.physical_type, 0)
            total += max(column.num_values * width, column.total_uncompressed_size)
    return total


def _first_rows(groups: Sequence[tuple[int, int]], rows: Int64s) -> Int64s:
    """Return the number of each block's first row within its own file."""
    firsts = np.cumsum(rows) - rows
    files = np.array([index for index, _ in groups])
    return firsts - firsts[np.searchsorted(files, files)]
