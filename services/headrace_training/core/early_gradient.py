"""A gradient that travels while backward still computes it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch

from headrace.parameters.layout import FlatLayout


class Early(Protocol):
    """Takes parts of a gradient as they are there."""

    @property
    def share_sent(self) -> float:
        """Which part of the gradient has left, 0 to 1."""

    def ready(self, part: range) -> None:
        """Take these values of the flat vector, one or more, which will not change any more; each once."""

    def cancel(self) -> None:
        """Forget what came, and take nothing more."""


class ReadyParts:
    """Tells of each parameter's gradient as soon as a backward pass has it for good.

    Args:
        parameters: By name; of each, one backward pass is told of at a time.
    """

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter], layout: FlatLayout) -> None:
        self._early: Early | None = None
        self._told: set[int] = set()  # where the parts begin
        for name, parameter in parameters.items():
            if parameter.numel():
                (part,) = layout.ranges([name])
                hook = partial(self._computed, part)
                parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]  # torch does not type it

    @contextmanager
    def told_to(self, early: Early) -> Iterator[None]:
        """Tell `early` of what is computed within."""
        self._early, self._told = early, set()
        try:
            yield
        finally:
            self._early = None

    def _computed(self, part: range, _: torch.Tensor) -> None:
        if self._early is None:
            return
        if part.start in self._told:  # a pass within the pass: what was sent was not all of it
            self._early.cancel()
            self._early = None
            return
        self._told.add(part.start)
        self._early.ready(part)
