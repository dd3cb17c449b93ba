"""A program's data as tensors, and its answers measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch

from headrace.data.dataset import Dataset
from headrace.data.prefetch import ahead
from headrace.data.rows import ArrayRows, Rows
from headrace.errors import ProgramFailed
from headrace.program import Examples, Program, Split
from headrace.tasks.bounds import MAX_METRICS

Kind = TypeVar("Kind")
OpenDataset = Callable[[Dataset], Rows]

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


def load(program: Program, split: Split, open_dataset: OpenDataset = Dataset.open) -> Rows:
    """Return a split of the program's data, open.

    Args:
        open_dataset: Opens data that are streamed.
    Raises:
        ProgramFailed: It is neither `Examples` nor a `Dataset`, or empty, or its arrays have different lengths.
        DataUnreadable, DataChanged, Unavailable: What a `Dataset` describes cannot be read.
    """
    returned = program.data(split)
    if isinstance(returned, Dataset):
        return open_dataset(returned)
    data = _expect(
        returned, Examples, f"data({split!r})", "headrace.program.Examples or a headrace.data.Dataset"
    )
    count = len(data)
    if not count or not data.inputs:
        raise ProgramFailed(
            f"data({split!r}) has {count} examples of {len(data.inputs)} inputs; return at least one"
        )
    for name, array in data.inputs.items():
        if len(array) != count:
            raise ProgramFailed(
                f"data({split!r}) has {len(array)} of input {name!r} and {count} targets; there must be as many of each"
            )
    return ArrayRows(data)


def as_batch(examples: Examples) -> Batch:
    """Take examples as tensors, without a copy where that is possible."""
    inputs = {name: _tensor(array) for name, array in examples.inputs.items()}
    return Batch(inputs, _tensor(examples.targets))


def evaluate(program: Program, module: torch.nn.Module, rows: Rows) -> dict[str, float]:
    """Measure the model in evaluation mode on all rows, and put it back into training mode.

    Inputs pass by; outputs and targets of all rows are in memory at the end, for `metrics`.

    Raises:
        ProgramFailed: The measures are no numbers by name, or the goal's is not among them.
    """
    module.eval()
    outputs, targets = [], []
    with torch.no_grad():
        for examples in ahead(rows.batches(_EVALUATION_BATCH)):
            outputs.append(module(**as_batch(examples).inputs).numpy())
            targets.append(examples.targets)
    module.train()
    measured = program.metrics(np.concatenate(outputs), np.concatenate(targets))
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


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Torch wants to be able to write: what was read from a file without a copy is copied here."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _expect(value: object, kind: type[Kind], call: str, wanted: str) -> Kind:
    """Check what the user's code returned, which no type checker has seen."""
    if not isinstance(value, kind):
        raise ProgramFailed(f"{call} returned a {type(value).__name__}; return {wanted}")
    return value
