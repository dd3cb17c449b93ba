"""Which values of a run are the best, and when to stop looking for better ones: early stopping (Prechelt 1998) without a memory of its own.

All that is kept is the best evaluation. How many came since follows from the steps, so a run that goes on from a checkpoint, which
may be older than its best values, gives up where the uninterrupted one would.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.errors import InvalidArgument
from headrace.program import Goal


@dataclass(frozen=True)
class Best:
    """The best evaluation so far: `value` of `metric` after `step` steps."""

    step: int
    metric: str
    value: float


@dataclass(frozen=True)
class Selection:
    """What is looked for.

    Args:
        metric: A name that the program's `metrics` returns; empty: its goal.
        larger: Whether larger values are better; None: as the goal says.
        patience: Evaluations in a row without a better one after which the run ends; 0: it does not.
        minimum_improvement: A better value surpasses the best by more than this, >= 0.
    """

    metric: str = ""
    larger: bool | None = None
    patience: int = 0
    minimum_improvement: float = 0.0


class Search:
    """Looks at the evaluations of a run, one after the other."""

    def __init__(self, selection: Selection, goal: Goal, evaluate_every: int, best: Best | None) -> None:
        """Begin, or go on.

        Args:
            evaluate_every: Steps from one evaluation to the next, >= 1.
            best: What earlier attempts found.
        Raises:
            InvalidArgument: The metric is not the program's goal, and nothing says which of its values are better.
        """
        self.best = best
        self._metric = selection.metric or goal.metric
        self._patience, self._every = selection.patience, evaluate_every
        self._minimum_improvement = selection.minimum_improvement
        larger = selection.larger
        if larger is None:
            if self._metric != goal.metric:
                raise InvalidArgument(
                    f"the metric {self._metric!r} is not the program's goal, {goal.metric!r}; say whether larger or smaller values "
                    "are better",
                    field="options.selection.direction",
                )
            larger = goal.best == "max"
        self._sign = 1.0 if larger else -1.0

    def look(self, step: int, metrics: Mapping[str, float]) -> Best | None:
        """Return the evaluation after `step` steps if it is the best so far; it is remembered.

        Raises:
            InvalidArgument: The metric is not among `metrics`.
        """
        if self._metric not in metrics:
            raise InvalidArgument(
                f"the program measures {', '.join(sorted(metrics))}, and no {self._metric!r}; name one of them",
                field="options.selection.metric",
            )
        value = metrics[self._metric]
        if not self._is_better(value):
            return None
        self.best = Best(step, self._metric, value)
        return self.best

    def gives_up(self, step: int) -> bool:
        """Tell whether the run should end after `step` steps: `patience` evaluations came after the best one."""
        since = step // self._every - (self.best.step if self.best else 0) // self._every
        return 0 < self._patience <= since

    def _is_better(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        return self.best is None or self._sign * (value - self.best.value) > self._minimum_improvement
