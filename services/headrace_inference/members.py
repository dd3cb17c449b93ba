"""What an ensemble sees of the models beside it: those of its own project."""

from collections.abc import Sequence
from typing import Protocol

from headrace.errors import FailedPrecondition
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
    """The models beside the one of this name in its project; the `Members` of an ensemble."""

    def __init__(self, serving: Serving, key: Key) -> None:
        self._serving = serving
        self._key = key

    def signature(self, model: str, version: str) -> Signature:
        """Return what a model takes and gives.

        Raises:
            NotFound: It is not loaded.
            FailedPrecondition: It is the ensemble itself, or an ensemble that it would be a step of: its runs would wait for
                each other.
        """
        found = self._find(model, version)
        if self._key.model in self._within(model, version):
            raise FailedPrecondition(
                f"the ensemble {self._key.model!r} would run itself, in its step {model!r}; name another model"
            )
        return found.signature

    def _find(self, model: str, version: str) -> Model:
        return self._serving.find(Key(self._key.project, model), version)

    def _within(self, model: str, version: str) -> set[str]:
        """Return the names of the models that run when this one does."""
        names, left = set[str](), [(model, version)]
        while left:
            name, number = left.pop()
            if name not in names:
                names.add(name)
                left += [(step.model, step.version) for step in self._find(name, number).config.steps]
        return names

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
            Key(self._key.project, step.model),
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
