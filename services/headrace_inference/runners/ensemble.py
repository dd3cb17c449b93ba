"""A graph of models that are loaded on this server: each step goes through its model's own queue, and is batched there."""

from collections.abc import Sequence
from typing import Protocol

from headrace.errors import FailedPrecondition, HeadraceError, InvalidArgument, NotFound
from headrace_inference.core.batching import Arrays
from headrace_inference.core.config import ModelConfig
from headrace_inference.core.ensemble import Step, in_order
from headrace_inference.core.signature import Signature


class Members(Protocol):
    """The models of one project that are loaded here."""

    def signature(self, model: str, version: str) -> Signature:
        """Return what a model takes and gives; raises `NotFound`."""

    def run_all(self, runs: Sequence[tuple[Step, Arrays]]) -> Sequence[Arrays]:
        """Run models at the same time; return the outputs that each step uses. Raises as `Models.infer`."""


class EnsembleRunner:
    """Runs the steps of an ensemble, stage by stage; thread-safe.

    Which version answers for a member is found out for every request, so a member may be switched while the ensemble serves.

    Raises:
        FailedPrecondition: A member is not loaded, or the graph does not fit together.
    """

    def __init__(self, config: ModelConfig, members: Members) -> None:
        if config.signature is None or not config.signature.inputs or not config.signature.outputs:
            raise FailedPrecondition("an ensemble declares its input and output in its configuration")
        self.signature = config.signature
        self._steps = config.steps
        self._members: Members | None = members
        try:
            models = [members.signature(step.model, step.version) for step in config.steps]
        except NotFound as error:
            raise FailedPrecondition(
                f"a model of the ensemble is missing, load it first: {error.message}"
            ) from error
        self._stages = in_order(self.signature, config.steps, models)

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Return the wished outputs."""
        if self._members is None:
            raise FailedPrecondition("the model is unloaded; load it again")
        tensors = dict(inputs)
        for stage in self._stages:
            steps = [self._steps[number] for number in stage]
            runs = [(step, {name: tensors[fed] for name, fed in step.takes.items()}) for step in steps]
            for step, given in zip(steps, _run_all(self._members, runs), strict=True):
                tensors.update({made: given[name] for name, made in step.gives.items()})
        return {name: tensors[name] for name in outputs}

    def close(self) -> None:
        """Forget the members, which stay loaded."""
        self._members = None


def _run_all(members: Members, runs: Sequence[tuple[Step, Arrays]]) -> Sequence[Arrays]:
    try:
        return members.run_all(runs)
    except (NotFound, InvalidArgument) as error:
        names = ", ".join(repr(step.model) for step, _ in runs)
        raise _in_step(error, names) from error


def _in_step(error: HeadraceError, names: str) -> HeadraceError:
    """Say where it happened; a member that is gone is not the caller's model that is not found."""
    kind = FailedPrecondition if isinstance(error, NotFound) else InvalidArgument
    return kind(f"in the ensemble's step {names}: {error.message}")
