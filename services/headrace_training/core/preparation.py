"""What is done to a model before it is trained: its activations are checkpointed, it is compiled."""

import torch

from headrace.errors import FailedPrecondition
from headrace_training.core.blocks import Backend, blocks_of, checkpoint_activations, compile_forward
from headrace_training.core.device import HOST, Device
from headrace_training.core.run import Run

BACKEND: Backend = "inductor"


def prepare(module: torch.nn.Module, run: Run, device: Device = HOST) -> torch.nn.Module:
    """Return the model, prepared as the run asks for; its parameters and their names stay as they are.

    Args:
        device: What it will compute on.
    Raises:
        InvalidArgument: It should be cut into blocks, and has none.
        FailedPrecondition: It should be compiled, and this machine cannot.
    """
    if run.compile_model:
        require_compiler(device)
    if not run.checkpoint_activations:
        if run.compile_model:
            compile_forward(module, BACKEND)
        return module
    for block in blocks_of(module):
        if run.compile_model:  # first: what is computed again is then compiled too
            compile_forward(block, BACKEND)
        checkpoint_activations(block)
    return module


def require_compiler(device: Device = HOST) -> None:
    """Compile one line for a device, as all of the model will be.

    Raises:
        FailedPrecondition: That is not possible.
    """
    try:
        torch.compile(_one_line, backend=BACKEND)(device.zeros(8))
    except Exception as error:
        cause = getattr(error, "inner_exception", error)  # torch's own wrapper says only that there was one
        reason = str(cause).strip().split("\n", 1)[0]
        raise FailedPrecondition(
            f"torch.compile does not work on this node: {type(cause).__name__}: {reason}; install a C++ compiler (g++ or clang++ on the "
            "path of the training service) with OpenMP, or leave out compile_model"
        ) from error


def _one_line(x: torch.Tensor) -> torch.Tensor:
    return x + 1
