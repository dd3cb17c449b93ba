"""Compares stubs of the Open Inference Protocol: what one client sends must be what another server reads."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from headrace.inference.oip.descriptor_pool import POOL

PACKAGE = "inference."


def differences(*files: Any) -> Iterator[str]:
    """Say where the messages, enums and rpcs of other stubs' files differ from ours.

    What they have and we lack is a difference; what we have beside is none, and is for `additions`.
    """
    for file in files:
        for message in file.message_types_by_name.values():
            yield from _message(message)
        for enum in file.enum_types_by_name.values():
            yield from _enum(enum)
        for service in file.services_by_name.values():
            yield from _service(service)


def additions(*files: Any) -> set[str]:
    """Name the messages and fields that we have and the other stubs' files lack; of a whole message, only its name."""
    theirs = {name: message for file in files for name, message in _tree(file.message_types_by_name)}
    return set(_additions(theirs))


def _additions(theirs: dict[str, Descriptor]) -> Iterator[str]:
    for name, mine in _tree(_ours()):
        if name not in theirs:
            yield name.removeprefix(PACKAGE)
            continue
        for field in mine.fields:
            if field.name not in theirs[name].fields_by_name:
                yield field.full_name.removeprefix(PACKAGE)


def _ours() -> dict[str, Descriptor]:
    service = POOL.FindServiceByName(f"{PACKAGE}GRPCInferenceService")
    files = {type_.file for method in service.methods for type_ in (method.input_type, method.output_type)}
    return {name: message for file in files for name, message in file.message_types_by_name.items()}


def _tree(messages: Any) -> Iterator[tuple[str, Descriptor]]:
    for message in messages.values():
        yield message.full_name, message
        yield from _tree(message.nested_types_by_name)


def _message(theirs: Descriptor) -> Iterator[str]:
    try:
        mine = POOL.FindMessageTypeByName(theirs.full_name)
    except KeyError:
        yield f"{theirs.full_name} is missing"
        return
    for field in theirs.fields:
        if field.name not in mine.fields_by_name:
            yield f"{field.full_name} is missing"
        elif _wire(mine.fields_by_name[field.name]) != _wire(field):
            yield f"{field.full_name} is {_wire(mine.fields_by_name[field.name])}, there {_wire(field)}"
    for nested in theirs.nested_types:
        yield from _message(nested)
    for enum in theirs.enum_types:
        yield from _enum(enum)


def _wire(field: FieldDescriptor) -> tuple[object, ...]:
    kind = field.message_type or field.enum_type
    oneof = field.containing_oneof
    return (
        field.number,
        field.type,
        field.is_repeated,
        field.is_packed,
        kind.full_name if kind else "",
        oneof.name if oneof else "",
    )


def _enum(theirs: EnumDescriptor) -> Iterator[str]:
    mine = POOL.FindEnumTypeByName(theirs.full_name)
    numbers = [{value.name: value.number for value in enum.values} for enum in (mine, theirs)]
    if numbers[0] != numbers[1]:
        yield f"{theirs.full_name} is {numbers[0]}, there {numbers[1]}"


def _service(theirs: Any) -> Iterator[str]:
    mine = POOL.FindServiceByName(theirs.full_name)
    for method in theirs.methods:
        twin = mine.methods_by_name.get(method.name)
        if twin is None or _rpc(twin) != _rpc(method):
            yield f"{method.full_name} is {twin and _rpc(twin)}, there {_rpc(method)}"


def _rpc(method: Any) -> tuple[object, ...]:
    return (
        method.input_type.full_name,
        method.output_type.full_name,
        method.client_streaming,
        method.server_streaming,
    )
