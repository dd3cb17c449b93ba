"""A user's own update is tried before it is used."""

from collections.abc import Mapping

import torch

from headrace.errors import InvalidArgument
from headrace_optimizers.rule import UpdateRule

_SIZE, _STEPS, _CUT = 96, 3, 37
_MOST_STATE = 8
_FIELD = "optimizer.registered.update"


def check_rule(rule: object, name: str, learning_rate: float) -> UpdateRule:
    """Try a rule on a small vector.

    Raises:
        InvalidArgument: It is not an `UpdateRule`, it raises, is not repeatable, or a value's update depends on others.
    """
    made = _checked_shape(rule, name)
    try:
        whole, again = (_run(made, learning_rate, [_SIZE]) for _ in range(2))
        cut = _run(made, learning_rate, [_CUT, _SIZE])
    except InvalidArgument as error:
        raise InvalidArgument(f"{name} {error.message}", field=_FIELD) from error.__cause__
    if not all(torch.equal(one, other) for one, other in zip(whole, again, strict=True)):
        raise InvalidArgument(
            f"{name} gives other values for the same gradients; make it deterministic", field=_FIELD
        )
    if not all(
        torch.allclose(one, other, rtol=1e-5, atol=1e-7) for one, other in zip(whole, cut, strict=True)
    ):
        raise InvalidArgument(
            f"{name} gives a value another update when its neighbours are elsewhere; update each value by its own gradient and state",
            field=_FIELD,
        )
    return made


def _checked_shape(rule: object, name: str) -> UpdateRule:
    state, apply = getattr(rule, "state", None), getattr(rule, "apply", None)
    if not isinstance(state, Mapping) or len(state) > _MOST_STATE or not all(map(_is_vector, state.items())):
        raise InvalidArgument(
            f"{name} has state {state!r}; it must name at most {_MOST_STATE} vectors, other than 'step', and what each begins with",
            field=_FIELD,
        )
    if not callable(apply):
        raise InvalidArgument(f"{name} has no apply(); see headrace_optimizers.rule.UpdateRule", field=_FIELD)
    return rule  # type: ignore[return-value]  # looked at above


def _is_vector(named: tuple[object, object]) -> bool:
    name, first = named
    return isinstance(name, str) and name.isidentifier() and name != "step" and isinstance(first, int | float)


def _run(rule: UpdateRule, learning_rate: float, ends: list[int]) -> list[torch.Tensor]:
    """Take some steps in parts that end at `ends`; return values and state."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(_SIZE, generator=generator)
    state = {name: torch.full((_SIZE,), float(first)) for name, first in rule.state.items()}
    for step in range(1, _STEPS + 1):
        gradient, start = torch.randn(_SIZE, generator=generator), 0
        for end in ends:
            part = {name: vector[start:end] for name, vector in state.items()}
            _try(rule, values[start:end], gradient[start:end], part, step, learning_rate)
            start = end
    return [values, *state.values()]


def _try(
    rule: UpdateRule,
    values: torch.Tensor,
    gradient: torch.Tensor,
    state: dict[str, torch.Tensor],
    step: int,
    learning_rate: float,
) -> None:
    try:
        rule.apply(values, gradient, state, step, learning_rate)
    except Exception as error:
        raise InvalidArgument(f"raises {type(error).__name__}: {error}") from error
    if not all(torch.isfinite(vector).all() for vector in (values, *state.values())):
        raise InvalidArgument("makes a NaN or an infinity of ordinary gradients")
