"""A program's data as tensors, and its answers measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from headrace.data.prefetch import ahead
from headrace.data.rows import Rows
from headrace.errors import ProgramFailed
from headrace.program import Examples, Program
from headrace.program.calls import blamed, expected, measured
from headrace_training.core.device import HOST, Device

_EVALUATION_BATCH = 256  # examples at a time: enough to keep the cores busy, little memory


@dataclass(frozen=True)
class Batch:
    """Some examples, as the model and the loss take them."""

    inputs: Mapping[str, torch.Tensor]
    targets: torch.Tensor


def make_model(program: Program) -> torch.nn.Module:
    """Return the program's model.

    Raises:
        ProgramFailed: `model` raised, or it is none of torch's.
    """
    with blamed("model()"):
        returned: object = program.model()
    return expected(returned, torch.nn.Module, "model()", "a torch.nn.Module")


def as_batch(examples: Examples, device: Device = HOST) -> Batch:
    """Take examples as tensors, without a copy where that is possible."""
    inputs = {name: device.put(_tensor(array)) for name, array in examples.inputs.items()}
    return Batch(inputs, device.put(_tensor(examples.targets)))


def as_loss(returned: object) -> torch.Tensor:
    """Return what `loss` returned, if it can be trained on.

    Raises:
        ProgramFailed: It is no scalar that was computed from the outputs.
    """
    if isinstance(returned, torch.Tensor) and not returned.ndim and returned.requires_grad:
        return returned
    raise ProgramFailed(
        f"loss() returned {_describe(returned)}; return the mean over the batch, a scalar computed from the outputs"
    )


def evaluate(
    program: Program, module: torch.nn.Module, rows: Rows, device: Device = HOST
) -> dict[str, float]:
    """Measure the model in evaluation mode on all rows, and put it back into training mode.

    Inputs pass by; outputs and targets of all rows are in memory of the host at the end, for `metrics`.

    Args:
        device: Where the module is.
    Raises:
        ProgramFailed: As `measured`.
    """
    module.eval()
    outputs, targets = [], []
    with torch.no_grad():
        for examples in ahead(rows.batches(_EVALUATION_BATCH)):
            outputs.append(module(**as_batch(examples, device).inputs).cpu().numpy())
            targets.append(examples.targets)
    module.train()
    return measured(program, np.concatenate(outputs), np.concatenate(targets))


def _describe(loss: object) -> str:
    if isinstance(loss, torch.Tensor):
        return f"shape {list(loss.shape)}, requires_grad {loss.requires_grad}"
    return f"a {type(loss).__name__}"


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """Torch wants to be able to write: what was read from a file without a copy is copied here."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
