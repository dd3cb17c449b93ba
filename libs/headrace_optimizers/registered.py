"""Updates by a user's own rule: all of a step happens, or nothing."""

from collections.abc import Sequence

import torch

from headrace.errors import NonFiniteValues, ProgramFailed
from headrace_optimizers.config import Registered
from headrace_optimizers.fused import HOST, Allocate, FusedOptimizer, State, new_memory


class RegisteredOptimizer(FusedOptimizer):
    """Applies a rule to copies, and takes them over when it has done well. That is one more copy of the state in each step."""

    def __init__(
        self, config: Registered, size: int, allocate: Allocate = new_memory, device: torch.device = HOST
    ) -> None:
        super().__init__(config, size, allocate, device)
        self._registered = config

    def apply(
        self, values: torch.Tensor, gradients: Sequence[tuple[torch.Tensor, float]], factor: float = 1.0
    ) -> torch.Tensor:
        """Do one step with the weighted sum of gradients, as every optimizer.

        Raises:
            ProgramFailed: The rule raised.
            NonFiniteValues: It made a NaN or an infinity. Either way nothing has changed.
        """
        (only, weight), *others = gradients
        total = only * weight  # in memory of its own: the rule may write to it
        for gradient, share in others:
            total.add_(gradient * share)
        return self.apply_parts(values, [(range(self._size), total)], factor)

    def apply_parts(
        self, values: torch.Tensor, means: Sequence[tuple[range, torch.Tensor]], factor: float = 1.0
    ) -> torch.Tensor:
        """Do one step for some of the values; raises as `apply` does."""
        new, state = self.hold(values), {name: vector.clone() for name, vector in self._begun().items()}
        state["step"] += 1
        for part, mean in means:
            self._call(new[part.start : part.stop], mean, state, part, factor)
        if not all(torch.isfinite(vector).all() for vector in (new, *state.values())):
            raise NonFiniteValues(
                f"{self._registered.update} made a NaN or an infinity; nothing was applied: lower the learning rate, or correct it"
            )
        self._state = state
        return new[: self._size]

    def _call(
        self, values: torch.Tensor, mean: torch.Tensor, state: State, part: range, factor: float
    ) -> None:
        rule, learning_rate = self._registered.rule, self._registered.learning_rate * factor
        vectors = {name: state[name][part.start : part.stop] for name in rule.state}
        try:
            rule.apply(values, mean, vectors, int(state["step"].item()), learning_rate)
        except Exception as error:  # the user's code, which may raise anything
            raise ProgramFailed(
                f"{self._registered.update} raised {type(error).__name__}: {error}; nothing was applied: correct it, and restart the "
                "parameter processes"
            ) from error

    def _begun(self) -> State:
        if not self._state:
            rule = self._registered.rule
            self._state = {
                name: torch.full((self._padded_size,), float(first), device=self._device)
                for name, first in rule.state.items()
            }
            self._state["step"] = torch.zeros((), device=self._device)
        return self._state
