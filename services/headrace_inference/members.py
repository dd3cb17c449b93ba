"""What an ensemble sees of the models beside it: those of its own project."""

from collections.abc import Sequence
from typing import Protocol

from headrace.rpc.deferred import Answer
from headrace_inference.core.batching import Arrays
from headrace_inference.core.catalog import Key
from headrace_inference.core.ensemble import Step
from headrace_inference.core.signature import Signature
from headrace_inference.engine import Watch
from headrace_inference.loader import Model


class Serving(Protocol):
    """What is needed of `models.Models`."""

    def find(self, key: Key, version: str = "") -> Model:
        """Return the model that answers."""

    def enter(
        self,
        key: Key,
        version: str,
        inputs: Arrays,
        outputs: tuple[str, ...],
        *,
        timeout_s: float | None,
        watch: Watch,
    ) -> Answer[tuple[Model, Arrays]]:
        """Have a model run once."""


class MembersOf:
    """The models of one project; the `Members` of an ensemble."""

    def __init__(self, serving: Serving, project: str) -> None:
        self._serving = serving
        self._project = project

    def signature(self, model: str, version: str) -> Signature:
        """Return what a model takes and gives."""
        return self._serving.find(Key(self._project, model), version).signature

    def run_all(self, runs: Sequence[tuple[Step, Arrays]]) -> Sequence[Arrays]:
        """Run models, at the same time; the caller of the ensemble waits for all of them."""
        answers: list[Answer[tuple[Model, Arrays]]] = []
        try:
            for step, inputs in runs:
                answers.append(self._enter(step, inputs))
        finally:
            # This thread leads the run it waits for first; the others, whatever becomes of that one, have to be led as well.
            for answer in answers[1 if len(answers) == len(runs) else 0 :]:
                answer.then(_do_nothing)
        return [answer.wait()[1] for answer in answers]

    def _enter(self, step: Step, inputs: Arrays) -> Answer[tuple[Model, Arrays]]:
        return self._serving.enter(
            Key(self._project, step.model),
            step.version,
            inputs,
            tuple(step.gives),
            timeout_s=None,  # whoever waits for the ensemble leaves by himself; what runs, runs to its end
            watch=_nobody_watches,
        )


def _do_nothing() -> None:
    """Be called back where only the call matters."""


def _nobody_watches(_: object) -> None:
    """Take a function to call when a step's caller is gone: the ensemble never goes."""
