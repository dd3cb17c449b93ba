"""JSON lines: each line is an object, and a block is a stretch of whole lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from headrace.data.arrow import arrays_of
from headrace.data.columns import Array, Columns, check_column
from headrace.data.needed import needed
from headrace.data.permutation import Int64s
from headrace.data.sources.csv import check_rows
from headrace.data.sources.lines import BLOCK_BYTES, Span, row_of, spans_of
from headrace.data.storage import File
from headrace.data.storage.unpacked import plain
from headrace.errors import DataUnreadable
from headrace.program import Examples


class JsonLinesSource:
    """Lines of JSON files. Each file is read through once when it is made, to find its lines."""

    def __init__(
        self,
        files: Sequence[File],
        columns: Columns,
        *,
        types: Mapping[str, str],
        block_bytes: int = BLOCK_BYTES,
    ) -> None:
        """Find the rows, and in the first block the fields' types.

        Args:
            types: Of fields by name, as Arrow names them, in place of what the first block suggests.
        """
        needed("pyarrow", "reading JSON lines")
        import pyarrow as pa

        self._files, self._columns = [plain(file) for file in files], columns
        self._spans = spans_of(self._files, [0] * len(files), quoted=False, block_bytes=block_bytes)
        self.block_rows: Int64s = np.array([span.rows for span in self._spans], np.int64)
        self.block_bytes = max(span.end - span.start for span in self._spans)
        given = [pa.field(name, pa.type_for_alias(kind)) for name, kind in types.items()]
        first = self._parse(self._spans[0], pa.schema(given), "infer")
        self._schema = first.schema
        columns.check(self._schema.names, self._files[0].name)
        self._wanted = pa.schema([self._steady(self._schema.field(name), types) for name in columns.names])

    def read(self, block: int) -> Examples:
        """Return a stretch of lines; see `Source.read`."""
        return self._columns.examples(self._arrays(self._spans[block], self._wanted))

    def keys(self, block: int, column: str) -> Array:
        """Return a field of a stretch of lines; see `Source.keys`."""
        import pyarrow as pa

        span = self._spans[block]
        check_column(column, self._schema.names, self._files[span.file].name)
        return self._arrays(span, pa.schema([self._schema.field(column)]))[column]

    def _steady(self, field: Any, types: Mapping[str, str]) -> Any:
        """Take floating-point numbers for those that stand side by side: they become float32 whether the first block has fractions or not."""
        import pyarrow as pa

        beside = any(
            field.name in entry for entry in self._columns.inputs.values() if not isinstance(entry, str)
        )
        if beside and field.name not in types and pa.types.is_integer(field.type):
            return field.with_type(pa.float64())
        return field

    def _arrays(self, span: Span, schema: Any) -> dict[str, Array]:
        table = self._parse(span, schema, "ignore")
        return arrays_of(table, self._files[span.file].name, span.first_row)

    def _parse(self, span: Span, schema: Any, others: str) -> Any:
        import pyarrow as pa
        from pyarrow import json as arrow_json

        file = self._files[span.file]
        data = file.read(span.start, span.end)
        with _explained(file, span):
            table = arrow_json.read_json(
                pa.BufferReader(data),
                read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
                parse_options=arrow_json.ParseOptions(
                    explicit_schema=schema, newlines_in_values=False, unexpected_field_behavior=others
                ),
            )
        check_rows(table.num_rows, span, file)
        return table


@contextmanager
def _explained(file: File, span: Span) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except pa.ArrowException as error:
        text = " ".join(str(error).split())
        raise DataUnreadable(
            f"{file.name}: {row_of(text, span)} cannot be read as JSON lines: {text[:300]}; each line must be one object with the "
            "types of the first ones, or name the field's type in `types`"
        ) from error
