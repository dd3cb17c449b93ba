"""Updates of a flat vector by torch's fused optimizers, which pass over the memory once."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch

from headrace.errors import InvalidArgument
from headrace.parameters.layout import Floats
from headrace_optimizers.config import Adagrad, Adam, AdamW, Lamb, Optimizer, Registered, Sgd
from headrace_optimizers.kernels import step

# The fused kernels compute the last values of a vector, where no whole SIMD register is left to fill, by other code that rounds
# differently. 64 values are a whole number of registers of any width (and of unrolled loops over them): with a vector padded to
# that, each value is the same whichever shard holds it.
_LANES = 64

# Values that each core updates at a time: what a block needs stays in the caches between summing gradients and the kernel, and no
# sum of the whole vector is kept. Measured with 10M values, two gradients and AdamW, of 2**15 to 2**20: 31, 23, 20, 18.5, 21 ms.
_BLOCK = 1 << 18

HOST = torch.device("cpu")

State = dict[str, torch.Tensor]


_STATE: Mapping[type[Optimizer], Sequence[str]] = {
    Sgd: ("momentum_buffer",),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
    Adagrad: ("sum",),
    Lamb: ("exp_avg", "exp_avg_sq"),
}


def kind_of(config: Optimizer) -> str:
    """Name the optimizer, as snapshots do."""
    if isinstance(config, Registered):
        return f"registered {config.update}"
    return type(config).__name__.lower()


def state_bytes(config: Optimizer, size: int) -> int:
    """Return the memory that the optimizer keeps for `size` values."""
    return 4 * size * (len(state_names(config)) if not _is_plain(config) else 0)


def state_names(config: Optimizer) -> Sequence[str]:
    """Name the vectors that the optimizer keeps; plain SGD keeps none of them."""
    return tuple(config.rule.state) if isinstance(config, Registered) else _STATE[type(config)]


Allocate = Callable[[int], Floats]


def new_memory(size: int) -> Floats:
    """Return memory for `size` values, shape (size,), with anything in it."""
    return np.empty(size, np.float32)


class FusedOptimizer:
    """The optimizer of one vector of `size` float32 values, with its state.

    Args:
        allocate: Gives the memory for new values, if they are on the host.
        device: Where values, gradients and state are.
    """

    def __init__(
        self,
        config: Optimizer,
        size: int,
        allocate: Allocate = new_memory,
        device: torch.device = HOST,
    ) -> None:
        self._config = config
        self._allocate, self._device = allocate, device
        self._size = size
        self._padded_size = -(-size // _LANES) * _LANES
        self._state: State = {}

    def apply(
        self, values: torch.Tensor, gradients: Sequence[tuple[torch.Tensor, float]], factor: float = 1.0
    ) -> torch.Tensor:
        """Do one step with the weighted sum of gradients.

        Args:
            values: Shape (size,); left as it is.
            gradients: Shape (size,) each, with its weight; one or more. They are left as they are.
            factor: Of the learning rate, in this step.
        Returns:
            The new values, shape (size,), in memory that `allocate` gave: whoever reads the old ones may go on, if that is not theirs.
        """
        new = self._new()
        # A GPU has no cache that a block should fit into, and wants few large kernels.
        block = _BLOCK * torch.get_num_threads() if self._device == HOST else self._padded_size
        alone = len(gradients) == 1 and gradients[0][1] == 1  # then only the end needs memory, to be padded
        total, scaled = (torch.zeros(_LANES if alone else block, device=self._device) for _ in range(2))

        def blocks() -> Iterator[tuple[slice, torch.Tensor]]:
            for place in self._places(block):
                summed = add_up(gradients, place, total, scaled)
                copy_padded(values[place], new[place])
                yield place, summed

        return self._stepped(new, blocks(), factor)

    def _stepped(
        self, new: torch.Tensor, blocks: Iterable[tuple[slice, torch.Tensor]], factor: float
    ) -> torch.Tensor:
        """Update `new`, shape (padded size,), where blocks of a gradient lie; return it without its padding."""
        state = self._begun()
        for place, gradient in blocks:
            step(self._config, new[place], gradient, state, place, self._config.learning_rate * factor)
        if "step" in state:
            state["step"] += 1
        return new[: self._size]

    def _places(self, block: int) -> Iterator[slice]:
        """Cut the vector into blocks; what does not fill the last lanes, padded, is one of its own."""
        whole = self._size - self._size % _LANES
        for start in range(0, whole, block):
            yield slice(start, min(start + block, whole))
        if whole < self._size:
            yield slice(whole, self._padded_size)

    def apply_parts(
        self, values: torch.Tensor, means: Sequence[tuple[range, torch.Tensor]], factor: float = 1.0
    ) -> torch.Tensor:
        """Do one step for some of the values; all others, and their state, stay as they are.

        The count of steps, which Adam corrects its bias by, is that of the vector: a value that was left out before is taken for one
        whose gradients were 0 (as torch.optim.SparseAdam does it).

        Args:
            values, factor: As for `apply`.
            means: Places, apart from each other, and the gradient there, shape (length of the place,).
        """
        blocks = (
            (slice(start, stop), mean[start - part.start : stop - part.start])
            for part, mean in means
            for start in range(part.start, part.stop, _BLOCK)
            for stop in [min(start + _BLOCK, part.stop)]
        )
        return self._stepped(self.hold(values), blocks, factor)

    def hold(self, values: torch.Tensor) -> torch.Tensor:
        """Copy values, shape (size,), to memory that `allocate` gives, shape (padded size,)."""
        held = self._new()
        copy_padded(values, held)
        return held

    def _new(self) -> torch.Tensor:
        if self._device == HOST:
            return torch.from_numpy(self._allocate(self._padded_size))
        return torch.empty(self._padded_size, device=self._device)

    def state(self) -> State:
        """Return a copy of the state: vectors of shape (size,) and scalars; empty before the first step."""
        return {name: value.clone() for name, value in self.views().items()}

    def views(self) -> State:
        """Return the state itself, as `state` does; the next step changes it."""
        return {name: value[: self._size] if value.ndim else value for name, value in self._state.items()}

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over a state that `state` gave.

        Raises:
            InvalidArgument: It is of another optimizer or size.
        """
        self._check(state)
        self._state = {
            name: self._padded(value) if value.ndim else value.to(self._device, copy=True)
            for name, value in state.items()
        }

    def _begun(self) -> State:
        """Return the state, padded, as it is before the first step or later."""
        if not self._state and not _is_plain(self._config):
            first = self._config.initial_accumulator if isinstance(self._config, Adagrad) else 0.0
            self._state = {
                name: torch.full((self._padded_size,), first, device=self._device)
                for name in state_names(self._config)
            }
            if not isinstance(self._config, Sgd):
                self._state["step"] = torch.zeros((), device=self._device)
        return self._state

    def _check(self, state: Mapping[str, torch.Tensor]) -> None:
        if not state:
            return
        expected = {name: [self._size] for name in state_names(self._config)}
        if not isinstance(self._config, Sgd):
            expected["step"] = []
        found = {name: list(value.shape) for name, value in state.items() if value.dtype == torch.float32}
        if _is_plain(self._config) or found != expected or len(found) != len(state):
            raise InvalidArgument(
                f"the snapshot's optimizer state {found} does not fit {self._config}; use a snapshot of such a store"
            )

    def _padded(self, vector: torch.Tensor) -> torch.Tensor:
        padded = torch.empty(self._padded_size, device=self._device)
        copy_padded(vector, padded)
        return padded


def copy_padded(values: torch.Tensor, memory: torch.Tensor) -> None:
    """Copy values to the beginning of memory, unless they are there, and zeros to the rest of it."""
    if memory.data_ptr() != values.data_ptr():
        memory[: values.numel()] = values
    memory[values.numel() :] = 0


def add_up(
    gradients: Sequence[tuple[torch.Tensor, float]], place: slice, total: torch.Tensor, scaled: torch.Tensor
) -> torch.Tensor:
    """Return the weighted sum of a part of gradients, shape (length of `place`,): beyond their end it is 0.

    Args:
        total: Where the sum is written, unless it is the only gradient; zeros beyond the end of the gradients.
        scaled: Memory of the same shape to compute in.
    """
    size = place.stop - place.start
    (only, weight), *others = ((gradient[place], weight) for gradient, weight in gradients)
    if not others and weight == 1 and only.numel() == size:
        return only
    # Multiply, then add, each rounded: `add_(alpha=)` may fuse them for some values and not for others.
    there = total[: only.numel()]
    torch.mul(only, weight, out=there)
    for gradient, share in others:
        there.add_(torch.mul(gradient, share, out=scaled[: gradient.numel()]))
    total[only.numel() : size] = 0
    return total[:size]


def _is_plain(config: Optimizer) -> bool:
    return isinstance(config, Sgd) and not config.momentum
