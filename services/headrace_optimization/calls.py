"""What optimization asks of the user's program beyond what training does."""

import math
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from headrace.errors import ProgramFailed
from headrace.program import Program
from headrace.program.calls import blamed, expected


def load_model(program: Program, weights: Path) -> torch.nn.Module:
    """Build the program's model with trained values, in eval mode.

    Args:
        weights: safetensors file of its state dict; of tensors that share memory one name is enough.
    Raises:
        ProgramFailed: `model` raised, or returned something else than the model the weights are of.
    """
    with blamed("model()"):
        returned: object = program.model()
    model = expected(returned, torch.nn.Module, "model()", "a torch.nn.Module")
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
