"""Call the user's program, and blame it by name for what goes wrong there."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from headrace.data.dataset import Dataset
from headrace.data.rows import ArrayRows, Rows
from headrace.errors import ProgramFailed
from headrace.program import Program, Split

OpenDataset = Callable[[Dataset], Rows]


@contextmanager
def blamed(call: str) -> Iterator[None]:
    """Turn whatever the program raises within into ProgramFailed, whose traceback ends where the program raised it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - foreign code may raise anything, and nothing of ours runs inside
        failed = ProgramFailed(f"the program's {call} raised {type(error).__name__}: {error}")
        raise failed.with_traceback(error.__traceback__) from None


def load_model(program: Program, weights: Path) -> torch.nn.Module:
    """Build the program's model with trained values, in eval mode.

    Args:
        weights: safetensors file of its state dict; of tensors that share memory one name is enough.
    Raises:
        ProgramFailed: `model` raised, or builds another model than the one the weights are of.
    """
    with blamed("model()"):
        model = program.model()
    try:
        values = load_file(weights)
        missing, unexpected = model.load_state_dict(values, strict=False)
    except (RuntimeError, SafetensorError) as error:
        raise ProgramFailed(f"the weights do not fit the program's model: {error}") from error
    state = model.state_dict(keep_vars=True)
    given = {id(tensor) for name, tensor in state.items() if name in values}
    missing = [name for name in missing if id(state[name]) not in given]
    if missing or unexpected:
        raise ProgramFailed(
            f"the weights do not fit the program's model: missing {missing[:5]}, unexpected {unexpected[:5]}; "
            "optimize with the program and config it was trained with"
        )
    return model.eval()


def load_split(program: Program, split: Split, open_dataset: OpenDataset = Dataset.open) -> Rows:
    """Ask the program for a split, and open it.

    Args:
        open_dataset: Opens data that are streamed.
    Raises:
        ProgramFailed: `data` raised, or the split is empty or ragged.
        DataUnreadable, DataChanged, Unavailable: What a `Dataset` describes cannot be read.
    """
    with blamed(f"data({split!r})"):
        examples = program.data(split)
    if isinstance(examples, Dataset):
        return open_dataset(examples)
    lengths = {name: len(array) for name, array in examples.inputs.items()} | {
        "targets": len(examples.targets)
    }
    if len(lengths) < 2 or min(lengths.values()) == 0 or len(set(lengths.values())) > 1:
        raise ProgramFailed(
            f"the program's data({split!r}) has {lengths} examples; every array needs the same number, at least 1"
        )
    return ArrayRows(examples)


def call_metrics(
    program: Program, outputs: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]
) -> dict[str, float]:
    """Ask the program how good `outputs` are.

    Raises:
        ProgramFailed: `metrics` raised, returned something that is not a number, or lacks the goal.
    """
    with blamed("metrics()"):
        metrics = {str(name): float(value) for name, value in program.metrics(outputs, targets).items()}
    if program.goal.metric not in metrics:
        raise ProgramFailed(
            f"the program's metrics() gives {sorted(metrics)} but its goal is {program.goal.metric!r}; return that too"
        )
    return metrics


def check_reference(program: Program, metrics: dict[str, float]) -> None:
    """Refuse an fp32 model without a number to compare with.

    Raises:
        ProgramFailed: The goal is not finite.
    """
    value = metrics[program.goal.metric]
    if not math.isfinite(value):
        raise ProgramFailed(
            f"the trained model's {program.goal.metric} on the test split is {value}; nothing can be compared with it"
        )
