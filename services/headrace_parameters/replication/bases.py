"""A whole shard as bytes, for a replica to begin with."""

import json

from safetensors import SafetensorError
from safetensors.torch import load, save

from headrace.errors import InvalidArgument
from headrace_parameters.core.state import ShardState


def encode_base(state: ShardState) -> tuple[bytes, bytes]:
    """Return what tells of the tensors, and the tensors, as a safetensors file."""
    tensors, metadata = state.encode()
    return json.dumps(metadata).encode(), save(tensors)


def decode_base(header: bytes, payload: bytes) -> ShardState:
    """Read what `encode_base` gave.

    Raises:
        InvalidArgument: It is something else.
    """
    try:
        return ShardState.decode(load(payload), json.loads(header))
    except (SafetensorError, ValueError) as error:
        raise InvalidArgument(f"the base of the replica is damaged: {error}") from error
