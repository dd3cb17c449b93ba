"""Messages with packed numbers (`repeated float`, `repeated fixed64`), written and read as arrays, without a step for each number.

The bytes are those of the generated classes: `tests/unit/parameters/test_packed.py` shows it. The packed fields of a message must have
the highest numbers, so that they come last. What is not laid out as the generated code does it, the generated code reads.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from headrace.parameters.codec import Malformed, fields_of, varint

Encoded = TypeVar("Encoded", bound=Message)
Array = npt.NDArray[Any]

_BYTES = 2  # wire type
_TYPES: Mapping[int, "np.dtype[Any]"] = {
    FieldDescriptor.TYPE_FLOAT: np.dtype("<f4"),
    FieldDescriptor.TYPE_FIXED64: np.dtype("<u8"),
}


class Packed:
    """A message whose packed fields are arrays; every other field is that of `message`."""

    __slots__ = ("arrays", "message")

    def __init__(self, message: Message, arrays: Mapping[str, Array]) -> None:
        self.message = message
        self.arrays = arrays

    def __getattr__(self, field: str) -> Any:
        arrays = self.arrays
        return arrays[field] if field in arrays else getattr(self.message, field)


def packed(message: Encoded, **arrays: Array) -> Encoded:
    """Give a message these arrays, which must not change before it is on its way, in the place of its packed fields."""
    return cast("Encoded", Packed(message, arrays))


def array_of(message: Message, field: str) -> Array:
    """Return a packed field as an array; what was received can be read alone, and may not be aligned."""
    kind = message.message if isinstance(message, Packed) else message
    dtype = _TYPES[kind.DESCRIPTOR.fields_by_name[field].type]
    array: Array = np.asarray(getattr(message, field), dtype)
    return array


def encode(message: Message | Packed) -> bytes:
    """Write a message as its generated class would."""
    if not isinstance(message, Packed):
        return message.SerializeToString()
    parts: list[bytes | memoryview] = [message.message.SerializeToString()]
    for name, field in _packed_fields(cast("Descriptor", message.message.DESCRIPTOR)).items():
        array = message.arrays.get(name)
        if array is not None and array.size:
            values = np.ascontiguousarray(array, _TYPES[field.type])
            parts += [
                varint(field.number << 3 | _BYTES),
                varint(values.nbytes),
                values.reshape(-1).view(np.uint8).data,
            ]
    return b"".join(parts)


def decoder(kind: type[Encoded]) -> Callable[[bytes], Encoded]:
    """Return a function that reads messages of a class; it raises what `FromString` raises for bytes that are none."""
    fields = _packed_fields(cast("Descriptor", kind.DESCRIPTOR))
    by_tag = {field.number << 3 | _BYTES: (name, _TYPES[field.type]) for name, field in fields.items()}

    def decode(data: bytes) -> Encoded:
        try:
            end, arrays = _arrays(data, by_tag)
        except Malformed:
            return kind.FromString(data)
        return cast("Encoded", Packed(kind.FromString(data[:end]), arrays))

    return decode


def _arrays(data: bytes, by_tag: Mapping[int, tuple[str, np.dtype[Any]]]) -> tuple[int, dict[str, Array]]:
    """Find the packed fields, and where the first of them begins; Malformed unless all other fields come before."""
    end, arrays = len(data), {name: np.zeros(0, dtype) for name, dtype in by_tag.values()}
    numbers = {tag >> 3 for tag in by_tag}
    for tag, start, content, stop in fields_of(data):
        name, dtype = by_tag.get(tag, ("", None))
        if dtype is None:
            if end < len(data) or tag >> 3 in numbers:  # one value alone, not packed, is as good in protobuf
                raise Malformed
            continue
        if arrays[name].size or (stop - content) % dtype.itemsize:
            raise Malformed
        end = min(end, start)
        arrays[name] = np.frombuffer(data, dtype, (stop - content) // dtype.itemsize, content)
    return end, arrays


def has_packed(message: Descriptor) -> bool:
    """Tell whether messages of this kind have packed fields."""
    return bool(_packed_fields(message))


def _packed_fields(message: Descriptor) -> dict[str, FieldDescriptor]:
    """Return the packed fields by name, in the order of their numbers."""
    found = [field for field in message.fields if field.is_packed and field.type in _TYPES]
    return {field.name: field for field in sorted(found, key=lambda field: field.number)}
