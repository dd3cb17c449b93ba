"""Messages as JSON, with the names of their fields: numbers are numbers, where protobuf's own form has 64 bits as text."""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message


def document_of(message: Message) -> dict[str, Any]:
    """Write a message; fields that are not set are there with their defaults, messages that are not set are not."""
    fields: list[Any] = [*message.DESCRIPTOR.fields]
    return {field.name: _field(message, field) for field in fields if _is_there(message, field)}


def _is_there(message: Message, field: FieldDescriptor) -> bool:
    return not field.has_presence or message.HasField(field.name)


def _field(message: Message, field: FieldDescriptor) -> Any:
    value = getattr(message, field.name)
    if not field.is_repeated:
        return _value(value, field)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        of = field.message_type.fields_by_name["value"]
        return {str(key): _value(value[key], of) for key in sorted(value)}
    return [_value(one, field) for one in value]


def _value(value: Any, field: FieldDescriptor) -> Any:
    if isinstance(value, Message):
        return document_of(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_number[value].name
    return value.decode("latin-1") if isinstance(value, bytes) else value
