"""Parameters of requests and tensors: what clients attach beside the fields of the protocol."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.errors import InvalidArgument
from headrace.inference.messages import SHARED
from headrace.inference.oip.v2 import inference_pb2 as pb

Parameters = Mapping[str, pb.InferParameter]

INTEGERS = ("int64_param", "uint64_param")
# Names that begin so belong to the protocol: one that is not known is a mistake, not a remark for the model.
RESERVED = "triton_"
WANTS_FINAL = "triton_enable_empty_final_response"
IS_FINAL = "triton_final_response"

MICROSECONDS = 1e-6


@dataclass(frozen=True)
class Options:
    """What a request wants of the server beside its answer.

    Args:
        priority: 1 is the most urgent; 0 leaves it to the server.
        timeout_s: How long it may wait for a worker; None: as long as its caller waits.
        sequence: The sequence of requests it belongs to; empty for none.
        wants_final: Whether a stream shall say with an empty answer that no more follow.
    """

    priority: int = 0
    timeout_s: float | None = None
    sequence: str = ""
    wants_final: bool = False


_NONE = Options()


def options_of(parameters: Parameters) -> Options:
    """Read the parameters of a request. Those that the protocol does not know are remarks for the model, and passed over.

    Raises:
        InvalidArgument: One that the protocol knows has a value of another type or out of its range, or belongs to a sequence
            that is not named; or the name of one is reserved.
    """
    if not parameters:  # nearly always
        return _NONE
    for name in parameters:
        if name.startswith(RESERVED) and name != WANTS_FINAL:
            raise InvalidArgument(
                f"parameter {name!r} is not known, and names that begin with {RESERVED!r} are reserved; known is "
                f"{WANTS_FINAL!r}",
                field="parameters",
            )
    timeout_us = integer(parameters, "timeout")
    return Options(
        priority=integer(parameters, "priority"),
        timeout_s=timeout_us * MICROSECONDS if timeout_us else None,
        sequence=_sequence(parameters),
        wants_final=_flag(parameters, WANTS_FINAL),
    )


def _sequence(parameters: Parameters) -> str:
    sequence = value_of(parameters, "sequence_id", (*INTEGERS, "string_param"), 0)
    edges = [name for name in ("sequence_start", "sequence_end") if _flag(parameters, name)]
    if edges and not sequence:
        raise InvalidArgument(
            f"parameter {edges[0]!r} is set, but no 'sequence_id'; name the sequence", field="parameters"
        )
    return str(sequence or "")


@dataclass(frozen=True)
class Place:
    """Where in shared memory the elements of a tensor lie; `size_bytes` of an output is the most it may have."""

    region: str
    offset: int
    size_bytes: int


def place_of(parameters: Parameters) -> Place:
    """Read where in shared memory a tensor lies.

    Raises:
        InvalidArgument: The size is missing, or something is no such number.
    """
    region = value_of(parameters, SHARED, ("string_param",), "")
    if not region:
        raise InvalidArgument(f"parameter {SHARED!r} is empty; name a region that is registered")
    if "shared_memory_byte_size" not in parameters:
        raise InvalidArgument(
            "parameter 'shared_memory_byte_size' is missing; say how much of the region counts"
        )
    return Place(
        region, integer(parameters, "shared_memory_offset"), integer(parameters, "shared_memory_byte_size")
    )


def integer(parameters: Parameters, name: str) -> int:
    """Return a whole number of at least 0; 0 if it is not there.

    Raises:
        InvalidArgument: It is of another type, or negative.
    """
    value = int(value_of(parameters, name, INTEGERS, 0))
    if value < 0:
        raise InvalidArgument(f"parameter {name!r} is {value}; it cannot be negative", field="parameters")
    return value


def _flag(parameters: Parameters, name: str) -> bool:
    return bool(value_of(parameters, name, ("bool_param",), False))


def value_of(parameters: Parameters, name: str, kinds: tuple[str, ...], default: Any) -> Any:
    """Return the value of a parameter, whose type must be one of `kinds`; `default` if it is not there.

    Raises:
        InvalidArgument: It is of another type.
    """
    if name not in parameters:
        return default
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidArgument(
            f"parameter {name!r} is {f'a {kind}' if kind else 'empty'}; it must be a {' or '.join(kinds)}",
            field="parameters",
        )
    return getattr(parameters[name], kind)
