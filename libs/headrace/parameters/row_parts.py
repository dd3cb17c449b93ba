"""What of a call with rows belongs to one shard."""

from dataclasses import dataclass

from headrace.errors import Internal
from headrace.parameters.keys import Indices, Keys
from headrace.parameters.layout import Floats
from headrace.parameters.v1.shared_memory_pb2 import SharedValues


@dataclass(frozen=True)
class RowGradient:
    """What of a push belongs to one shard, and where it lies in shared memory.

    Args:
        keys: Shape (n,).
        gradients: Shape (n, dim).
    """

    keys: Keys
    gradients: Floats
    lent_keys: SharedValues | None
    lent_gradients: SharedValues | None


@dataclass(frozen=True)
class AskedRows:
    """What of a pull belongs to one shard, where the keys lie in shared memory, and where the rows belong.

    Args:
        keys: Shape (n,).
        out: The rows of the whole pull.
        positions: Which of them are these.
    """

    keys: Keys
    lent_keys: SharedValues | None
    out: Floats
    positions: slice | Indices

    def take(self, values: Floats) -> None:
        """Write the shard's rows, shape (n * dim,), to where they belong."""
        shape = self.keys.size, self.out.shape[1]
        if values.size != shape[0] * shape[1]:
            raise Internal(f"the shard answered {values.size} values where {list(shape)} were asked for")
        self.out[self.positions] = values.reshape(shape)
