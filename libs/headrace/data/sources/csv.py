"""CSV: the header names the columns, and a block is a stretch of whole rows."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from headrace.data.arrow import arrays_of
from headrace.data.columns import Array, Columns, check_column
from headrace.data.needed import needed
from headrace.data.permutation import Int64s
from headrace.data.sources.lines import BLOCK_BYTES, Span, first_line, row_of, spans_of
from headrace.data.storage import File
from headrace.data.storage.unpacked import plain
from headrace.errors import DataUnreadable
from headrace.program import Examples


class CsvSource:
    """Rows of CSV files. Each file is read through once when it is made, to find its rows."""

    def __init__(
        self,
        files: Sequence[File],
        columns: Columns,
        *,
        delimiter: str,
        names: Sequence[str] | None,
        types: Mapping[str, str],
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Find the rows, and in the first block the columns' types.

        Args:
            names: Of the columns, for files without a header.
            types: Of columns by name, as Arrow names them, in place of what the first block suggests.
        """
        needed("pyarrow", "reading CSV")
        self._files, self._columns, self._delimiter = [plain(file) for file in files], columns, delimiter
        headers = [(list(names), 0) if names else self._header(file) for file in self._files]
        self._names = [header for header, _ in headers]
        for header, file in zip(self._names, self._files, strict=True):
            columns.check(header, file.name)
        self._spans = spans_of(
            self._files, [start for _, start in headers], quoted=True, block_bytes=block_bytes
        )
        self.block_rows: Int64s = np.array([span.rows for span in self._spans], np.int64)
        self.block_bytes = max(span.end - span.start for span in self._spans)
        self._types = self._infer(types)

    def read(self, block: int) -> Examples:
        """Return a stretch of rows; see `Source.read`."""
        return self._columns.examples(self._arrays(self._spans[block], self._types))

    def keys(self, block: int, column: str) -> Array:
        """Return a column as text; see `Source.keys`."""
        import pyarrow as pa

        span = self._spans[block]
        check_column(column, self._names[span.file], self._files[span.file].name)
        return self._arrays(span, {column: pa.string()})[column]

    def _header(self, file: File) -> tuple[list[str], int]:
        line, end = first_line(file, quoted=True)
        with _explained(file, "the header"):
            (row,) = csv.reader([line.decode("utf-8-sig").rstrip("\r\n")], delimiter=self._delimiter)
        return row, end

    def _infer(self, types: Mapping[str, str]) -> dict[str, Any]:
        """Take the types of the first block, so that each block has the same ones."""
        import pyarrow as pa

        given = {name: pa.type_for_alias(kind) for name, kind in types.items()}
        table = self._parse(self._spans[0], dict.fromkeys(self._columns.names) | given)
        found: dict[str, Any] = dict(zip(table.column_names, table.schema.types, strict=True))
        beside = {
            name for entry in self._columns.inputs.values() if not isinstance(entry, str) for name in entry
        }
        for name in beside - set(given):  # they become float32, whether the first block has fractions or not
            if pa.types.is_integer(found[name]):
                found[name] = pa.float64()
        return found

    def _arrays(self, span: Span, types: Mapping[str, Any]) -> dict[str, Array]:
        return arrays_of(self._parse(span, types), self._files[span.file].name, span.first_row)

    def _parse(self, span: Span, types: Mapping[str, Any]) -> Any:
        """Return a span as a table of the columns in `types`; those whose type is None are guessed."""
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        file = self._files[span.file]
        data = file.read(span.start, span.end)
        with _explained(file, span):
            table = arrow_csv.read_csv(
                pa.BufferReader(data),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=len(data) + 1, column_names=self._names[span.file]
                ),
                parse_options=arrow_csv.ParseOptions(
                    delimiter=self._delimiter, newlines_in_values=b'"' in data
                ),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=list(types),
                    column_types={name: kind for name, kind in types.items() if kind is not None},
                ),
            )
        check_rows(table.num_rows, span, file)
        return table


def check_rows(found: int, span: Span, file: File) -> None:
    """Check that a parser found the rows that were counted.

    Raises:
        DataUnreadable: It found another number.
    """
    if found != span.rows:
        raise DataUnreadable(
            f"{file.name}: {row_of('', span)} are {span.rows} lines but {found} rows; look for a quote that does not end, or a line "
            "of blanks"
        )


@contextmanager
def _explained(file: File, place: Span | str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, csv.Error, UnicodeDecodeError, ValueError) as error:
        text = " ".join(str(error).split())
        where = place if isinstance(place, str) else row_of(text, place)
        raise DataUnreadable(
            f"{file.name}: {where} cannot be read as CSV: {text[:300]}; correct it, or name the column's type in `types`"
        ) from error
