"""The course of a measure over the steps of a job, put together from what its attempts tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headrace.tasks.v1.inspection_pb2 import Metrics


@dataclass
class Curve:
    """One measure: `values[i]` was measured when `steps[i]` steps were done; the steps grow."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def cut(self, step: int) -> None:
        """Forget what was measured at `step` or later."""
        kept = sum(known < step for known in self.steps)
        del self.steps[kept:], self.values[kept:]


def merged(attempts: Sequence[Metrics]) -> dict[str, Curve]:
    """Return all measures of a job by name; where an attempt went on from a checkpoint, what came after that is the newer attempt's."""
    curves: dict[str, Curve] = {}
    for metrics in attempts:
        began = min((series.steps[0] for series in metrics.series if series.steps), default=None)
        if began is not None:
            for curve in curves.values():
                curve.cut(began)
        for series in metrics.series:
            curve = curves.setdefault(series.name, Curve())
            curve.steps += series.steps
            curve.values += series.values
    return curves
