"""Models as a graph: which step feeds which, checked before the first request comes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headrace.errors import FailedPrecondition
from headrace_inference.core.signature import Signature, Tensor, agree


@dataclass(frozen=True)
class Step:
    """One model of an ensemble.

    Args:
        version: Empty for whichever answers.
        takes: For each input of the model, the tensor of the ensemble that feeds it.
        gives: For each output of the model that is used, the tensor of the ensemble that it makes.
    """

    model: str
    version: str
    takes: Mapping[str, str]
    gives: Mapping[str, str]

    def __str__(self) -> str:
        return f"step {self.model!r}"


def in_order(signature: Signature, steps: Sequence[Step], models: Sequence[Signature]) -> list[list[int]]:
    """Return the positions of the steps in stages: those of a stage need only what earlier stages make.

    Args:
        signature: Of the whole.
        models: What the model of each step takes and gives.
    Raises:
        FailedPrecondition: Names, types or shapes do not fit, a tensor is made twice or never, or steps wait for each other.
    """
    made = {tensor.name: (tensor, "the ensemble's input") for tensor in signature.inputs}
    for step, model in zip(steps, models, strict=True):
        _check_names(step, model)
        for name, tensor in _made_by(step, model):
            if name in made:
                raise FailedPrecondition(f"tensor {name!r} is made by {made[name][1]} and again by {step}")
            made[name] = (tensor, str(step))
    for step, model in zip(steps, models, strict=True):
        for tensor in model.inputs:
            _check_fed(step.takes[tensor.name], made, tensor, f"input {tensor.name!r} of {step}")
    for tensor in signature.outputs:
        _check_fed(tensor.name, made, tensor, f"output {tensor.name!r} of the ensemble")
    return _stages(signature, steps)


def _check_names(step: Step, model: Signature) -> None:
    inputs, outputs = ({tensor.name for tensor in tensors} for tensors in (model.inputs, model.outputs))
    for kind, named, known in (("input", set(step.takes), inputs), ("output", set(step.gives), outputs)):
        if named - known:
            raise FailedPrecondition(
                f"the {kind}_map of {step} names {min(named - known)!r}; its {kind}s are {', '.join(sorted(known))}"
            )
    if inputs - set(step.takes):
        raise FailedPrecondition(f"the input_map of {step} leaves out {min(inputs - set(step.takes))!r}")
    if not step.gives:
        raise FailedPrecondition(
            f"the output_map of {step} is empty; leave the step out, or use what it gives"
        )


def _made_by(step: Step, model: Signature) -> Iterator[tuple[str, Tensor]]:
    outputs = {tensor.name: tensor for tensor in model.outputs}
    for output, name in step.gives.items():
        yield name, outputs[output]


def _check_fed(name: str, made: Mapping[str, tuple[Tensor, str]], wanted: Tensor, where: str) -> None:
    if name not in made:
        raise FailedPrecondition(f"{where} needs tensor {name!r}, which nothing makes")
    tensor, maker = made[name]
    if not agree(tensor, wanted):
        raise FailedPrecondition(f"{where} is {wanted}, but tensor {name!r} of {maker} is {tensor}")


def _stages(signature: Signature, steps: Sequence[Step]) -> list[list[int]]:
    there = {tensor.name for tensor in signature.inputs}
    left, stages = list(range(len(steps))), []
    while left:
        stage = [number for number in left if there.issuperset(steps[number].takes.values())]
        if not stage:
            waiting = ", ".join(repr(steps[number].model) for number in left)
            raise FailedPrecondition(f"the steps {waiting} wait for each other")
        there.update(name for number in stage for name in steps[number].gives.values())
        left = [number for number in left if number not in stage]
        stages.append(stage)
    return stages
