"""A program's data as tensors, and its answers measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from headrace.errors import ProgramFailed
from headrace.program import Examples, Program, Split
from headrace.tasks.bounds import MAX_METRICS
from headrace_training.core.order import Indices

Kind = TypeVar("Kind")

_EVALUATION_BATCH = 256  # examples at a time: enough to keep the cores busy, little memory


@dataclass(frozen=True)
class Batch:
    """Some examples, as the model and the loss take them."""

    inputs: Mapping[str, torch.Tensor]
    targets: torch.Tensor


def make_model(program: Program) -> torch.nn.Module:
    """Return the program's model.

    Raises:
        ProgramFailed: It is none of torch's.
    """
    return _expect(program.model(), torch.nn.Module, "model()", "a torch.nn.Module")


def load(program: Program, split: Split) -> Examples:
    """Return a split of the program's data.

    Raises:
        ProgramFailed: It is no `Examples` or empty, or its arrays have different lengths.
    """
    examples = _expect(program.data(split), Examples, f"data({split!r})", "headrace.program.Examples")
    count = len(examples)
    if not count or not examples.inputs:
        raise ProgramFailed(
            f"data({split!r}) has {count} examples of {len(examples.inputs)} inputs; return at least one"
        )
    for name, array in examples.inputs.items():
        if len(array) != count:
            raise ProgramFailed(
                f"data({split!r}) has {len(array)} of input {name!r} and {count} targets; there must be as many of each"
            )
    return examples


def take(examples: Examples, indices: Indices) -> Batch:
    """Copy the examples of `indices`, shape (n,), into a batch."""
    inputs = {name: torch.from_numpy(array[indices]) for name, array in examples.inputs.items()}
    return Batch(inputs, torch.from_numpy(examples.targets[indices]))


def evaluate(program: Program, module: torch.nn.Module, examples: Examples) -> dict[str, float]:
    """Measure the model in evaluation mode on all examples, and put it back into training mode.

    Raises:
        ProgramFailed: The measures are no numbers by name, or the goal's is not among them.
    """
    module.eval()
    with torch.no_grad():
        outputs = [
            module(**take(examples, indices).inputs).numpy()
            for indices in np.array_split(np.arange(len(examples)), -(-len(examples) // _EVALUATION_BATCH))
        ]
    module.train()
    measured = program.metrics(np.concatenate(outputs), examples.targets)
    named = _expect(measured, dict, "metrics()", "a dict of numbers")
    if len(named) > MAX_METRICS:
        raise ProgramFailed(f"metrics() returned {len(named)} numbers; return at most {MAX_METRICS}")
    metrics = {str(name): _number(name, value) for name, value in named.items()}
    if program.goal.metric not in metrics:
        raise ProgramFailed(
            f"metrics() returns {', '.join(metrics) or 'nothing'}, but the goal is {program.goal.metric!r}; return that too"
        )
    return metrics


def _number(name: object, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # what the user's code returned may be anything
    except (TypeError, ValueError):
        raise ProgramFailed(f"metrics() returned {value!r} as {name!r}; return a number") from None


def _expect(value: object, kind: type[Kind], call: str, wanted: str) -> Kind:
    """Check what the user's code returned, which no type checker has seen."""
    if not isinstance(value, kind):
        raise ProgramFailed(f"{call} returned a {type(value).__name__}; return {wanted}")
    return value
