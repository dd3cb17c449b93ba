"""Updates of a flat vector by torch's fused optimizers, which pass over the memory once."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from headrace.errors import InvalidArgument
from headrace.parameters.layout import Floats
from headrace_optimizers.config import Adagrad, Adam, AdamW, Lamb, Optimizer, Sgd

# The fused kernels compute the last values of a vector, where no whole SIMD register is left to fill, by other code that rounds
# differently. 64 values are a whole number of registers of any width (and of unrolled loops over them): with a vector padded to
# that, each value is the same whichever shard holds it.
_LANES = 64

_BLOCK = (
    1 << 16
)  # values that are summed at a time: a few gradients' worth of them stay in a core's own cache

_STATE: Mapping[type[Optimizer], Sequence[str]] = {
    Sgd: ("momentum_buffer",),
    Adam: ("exp_avg", "exp_avg_sq"),
    AdamW: ("exp_avg", "exp_avg_sq"),
    Adagrad: ("sum",),
    Lamb: ("exp_avg", "exp_avg_sq"),
}


def kind_of(config: Optimizer) -> str:
    """Name the optimizer, as snapshots do."""
    return type(config).__name__.lower()


def state_bytes(config: Optimizer, size: int) -> int:
    """Return the memory that the optimizer keeps for `size` values."""
    return 4 * size * (len(_STATE[type(config)]) if not _is_plain(config) else 0)


Allocate = Callable[[int], Floats]


def new_memory(size: int) -> Floats:
    """Return memory for `size` values, shape (size,), with anything in it."""
    return np.empty(size, np.float32)


class FusedOptimizer:
    """The optimizer of one vector of `size` float32 values, with its state.

    Args:
        allocate: Gives the memory for new values.
    """

    def __init__(self, config: Optimizer, size: int, allocate: Allocate = new_memory) -> None:
        self._config = config
        self._allocate = allocate
        self._size = size
        self._padded_size = -(-size // _LANES) * _LANES
        # Neither touches its memory before it is needed: that would be most of the time that the start of a large shard takes.
        self._parameter = torch.nn.Parameter(torch.empty(self._padded_size), requires_grad=False)
        self._total: torch.Tensor | None = None
        self._torch = _build(config, self._parameter)

    def apply(
        self, values: torch.Tensor, gradients: Sequence[tuple[torch.Tensor, float]], factor: float = 1.0
    ) -> torch.Tensor:
        """Do one step with the weighted sum of gradients.

        Args:
            values: Shape (size,); left as it is.
            gradients: Shape (size,) each, with its weight; one or more. They are left as they are.
            factor: Of the learning rate, in this step.
        Returns:
            The new values, shape (size,), in memory of their own: who reads the old ones may go on.
        """
        self._parameter.data = self.hold(values)
        self._parameter.grad = self._sum(gradients)
        self._torch.param_groups[0]["lr"] = self._config.learning_rate * factor
        self._torch.step()
        return self._parameter.data[: self._size]

    def _sum(self, gradients: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
        """Return the weighted sum of gradients, shape (padded size,)."""
        (only, weight), *others = gradients
        if not others and weight == 1 and self._size == self._padded_size:
            return only
        # Multiply, then add, each rounded: `add_(alpha=)` may fuse them for some values and not for others.
        scaled = torch.empty(min(self._size, _BLOCK))
        if self._total is None:
            self._total = torch.zeros(self._padded_size)
        for start in range(0, self._size, _BLOCK):
            total = self._total[start : min(start + _BLOCK, self._size)]
            torch.mul(only[start : start + _BLOCK], weight, out=total)
            for gradient, share in others:
                total.add_(torch.mul(gradient[start : start + _BLOCK], share, out=scaled[: total.numel()]))
        return self._total

    def hold(self, values: torch.Tensor) -> torch.Tensor:
        """Copy values, shape (size,), to memory that `allocate` gives, shape (padded size,)."""
        held = torch.from_numpy(self._allocate(self._padded_size))
        held[: self._size] = values
        held[self._size :] = 0
        return held

    def state(self) -> dict[str, torch.Tensor]:
        """Return a copy of the state: vectors of shape (size,) and scalars; empty before the first step."""
        state = self._torch.state.get(self._parameter, {})
        return {
            name: (value[: self._size] if value.ndim else value).clone()
            for name, value in state.items()
            if value is not None
        }

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over a state that `state` gave.

        Raises:
            InvalidArgument: It is of another optimizer or size.
        """
        self._check(state)
        self._torch.state[self._parameter] = {
            name: self._padded(value) if value.ndim else value.clone() for name, value in state.items()
        }

    def _check(self, state: Mapping[str, torch.Tensor]) -> None:
        if not state:
            return
        expected = {name: [self._size] for name in _STATE[type(self._config)]}
        if not isinstance(self._config, Sgd):
            expected["step"] = []
        found = {name: list(value.shape) for name, value in state.items() if value.dtype == torch.float32}
        if _is_plain(self._config) or found != expected or len(found) != len(state):
            raise InvalidArgument(
                f"the snapshot's optimizer state {found} does not fit {self._config}; use a snapshot of such a store"
            )

    def _padded(self, vector: torch.Tensor) -> torch.Tensor:
        padded = torch.empty(self._padded_size)
        padded[: self._size] = vector
        padded[self._size :] = 0
        return padded


def _is_plain(config: Optimizer) -> bool:
    return isinstance(config, Sgd) and not config.momentum


def _build(config: Optimizer, parameter: torch.nn.Parameter) -> torch.optim.Optimizer:
    if isinstance(config, Sgd):
        return torch.optim.SGD(
            [parameter],
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
            fused=True,
        )
    if isinstance(config, Adagrad):
        return torch.optim.Adagrad(
            [parameter],
            lr=config.learning_rate,
            initial_accumulator_value=config.initial_accumulator,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            fused=True,
        )
    kind = torch.optim.Adam if isinstance(config, Adam) else torch.optim.AdamW
    return kind(
        [parameter],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )
