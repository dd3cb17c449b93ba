"""How good the values are on the validation split, and which were best: what rank 0 alone looks at."""

from collections.abc import Mapping
from typing import Protocol

import torch

from headrace.program import Program
from headrace.program.calls import OpenDataset, load_split
from headrace_training.core import examples
from headrace_training.core.model import Model
from headrace_training.core.run import Run
from headrace_training.core.selection import Best, Search


class EvaluationObserver(Protocol):
    """Who hears what was measured, and keeps the best values."""

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        """These were measured on the validation split after `step` steps."""

    def improved(self, best: Best, state: Mapping[str, torch.Tensor]) -> None:
        """These values, a state dict, are the best so far."""


class Evaluation:
    """Measures values and remembers the best measure."""

    def __init__(
        self, program: Program, run: Run, observer: EvaluationObserver, open_dataset: OpenDataset
    ) -> None:
        """Open the validation split.

        Args:
            open_dataset: Opens data that are streamed.
        Raises:
            ProgramFailed: It is none.
            InvalidArgument: The run looks for the best of something the program does not say enough about.
        """
        self._program, self._observer = program, observer
        self._validation = load_split(program, "validation", open_dataset)
        self._search = (
            Search(run.selection, program.goal, run.evaluate_every, run.best) if run.selection else None
        )

    def measure(self, model: Model, step: int) -> dict[str, float]:
        """Return the measures of the model's values after `step` steps; hand them to the observer if they are the best.

        Raises:
            ProgramFailed: As `examples.evaluate`.
            InvalidArgument: What is looked for is not measured.
        """
        metrics = examples.evaluate(self._program, model.module, self._validation, model.device)
        self._observer.evaluated(step, metrics)
        best = self._search.look(step, metrics) if self._search else None
        if best:
            self._observer.improved(best, model.state())
        return metrics

    def gives_up(self, step: int) -> bool:
        """Tell whether the run should end after `step` steps."""
        return self._search is not None and self._search.gives_up(step)
