"""From Arrow's columns to arrays of numpy, refusing what would become something else on the way."""

from typing import Any

import numpy as np

from headrace.data.columns import Array
from headrace.errors import DataUnreadable


def arrays_of(table: Any, where: str, first_row: int) -> dict[str, Array]:
    """Return the columns of a `pyarrow.Table` by name.

    Numbers keep their type, but half and double precision become float32; lists of equal length become further axes; text and bytes
    become arrays of objects.

    Args:
        where: The file, for messages.
        first_row: The number of the table's first row in it, from 0.
    Raises:
        DataUnreadable: A value is missing, lists differ in length, or the type is none of these.
    """
    return {name: _array(table[name].combine_chunks(), name, where, first_row) for name in table.column_names}


def _array(column: Any, name: str, where: str, first_row: int) -> Array:
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):  # of no chunk: combine_chunks keeps an empty one as it is
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataUnreadable(
            f"{where}: column {name!r} has no value in row {first_row + row}; fill it in, or leave the row out"
        )
    return _values(column, name, where, first_row)


def _values(column: Any, name: str, where: str, first_row: int) -> Array:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_floating(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float32)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if pa.types.is_decimal(kind):
        return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float32)
    if (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        return np.asarray(column.to_numpy(zero_copy_only=False), object)
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _lists(column, name, where, first_row)
    raise DataUnreadable(
        f"{where}: column {name!r} is of type {kind}, which is neither numbers, lists of numbers, text nor bytes; convert it"
    )


def _lists(column: Any, name: str, where: str, first_row: int) -> Array:
    """Return lists of equal length with their elements along the second axis."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths != lengths[0]).any():
        row = int(np.flatnonzero(lengths != lengths[0])[0])
        raise DataUnreadable(
            f"{where}: column {name!r} has a list of {lengths[row]} in row {first_row + row} and of {lengths[0]} in row {first_row}; "
            "make all equally long, padded for example"
        )
    flat = column.flatten()
    if isinstance(flat, pa.ChunkedArray):
        flat = flat.combine_chunks()
    if flat.null_count:
        element = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataUnreadable(
            f"{where}: column {name!r} has no value in a list of row {first_row + element // int(lengths[0])}; fill it in, or leave "
            "the row out"
        )
    values = _values(flat, name, where, first_row)
    return values.reshape(len(column), int(lengths[0]) if len(lengths) else 0, *values.shape[1:])
