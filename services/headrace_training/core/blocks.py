"""The blocks of a model, which its memory and its compilation are cut by.

Blocks are the members of the model's outermost `torch.nn.ModuleList`s, or, if it has none, of its outermost `torch.nn.Sequential`s; those
without trainable parameters are no blocks. So is a transformer written, and whoever wants other blocks puts them into such a list.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from headrace.errors import InvalidArgument

Forward = Callable[..., Any]
Backend = str | Callable[..., Any]  # as torch.compile takes it


def blocks_of(module: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the blocks of a model, none of which is part of another one.

    Raises:
        InvalidArgument: It has none.
    """
    lists = _outermost(module, torch.nn.ModuleList) or _outermost(module, torch.nn.Sequential)
    members = [member for each in lists for member in each.children() if _is_trained(member)]
    blocks = list(dict.fromkeys(members))  # one that stands in two places is one
    if not blocks:
        raise InvalidArgument(
            f"{type(module).__name__} has no blocks that its activations or parameters could be cut by; put its layers into a "
            "torch.nn.ModuleList or torch.nn.Sequential, or leave out checkpoint_activations and fully_sharded"
        )
    return blocks


def checkpoint_activations(block: torch.nn.Module) -> None:
    """Let a block keep its inputs alone for the backward pass, which computes the rest again (Chen et al. 2016, arXiv:1604.06174).

    It draws the same noise again, and moves its buffers (BatchNorm's) once.
    """
    forward = block.forward

    def recomputing(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        contexts = partial(_contexts, block)
        return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)

    _replace_forward(block, recomputing)


def compile_forward(module: torch.nn.Module, backend: Backend) -> None:
    """Compile a block, or a whole model, when it is called."""
    forward = module.forward

    # A frame of its own: torch.compile leaves those of torch's modules, such as Sequential's, as they are.
    def compiled(*args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    _replace_forward(module, torch.compile(compiled, backend=backend))


def _replace_forward(block: torch.nn.Module, forward: Forward) -> None:
    """Replace it on the instance: a module around it would change the names of the parameters."""
    block.forward = forward


def _contexts(block: torch.nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _with_other_buffers(block)


@contextmanager
def _with_other_buffers(block: torch.nn.Module) -> Iterator[None]:
    """Let a block compute with copies of its buffers, which are dropped.

    Not by writing the old values back: autograd keeps these very tensors, and refuses ones that were written to.
    """
    kept = [(owner, dict(owner._buffers)) for owner in block.modules()]  # noqa: SLF001 - the one place that has them
    for owner, buffers in kept:
        for name, buffer in buffers.items():
            owner._buffers[name] = None if buffer is None else buffer.clone()  # noqa: SLF001 - likewise
    try:
        yield
    finally:
        for owner, buffers in kept:
            owner._buffers.update(buffers)  # noqa: SLF001 - likewise


def _outermost(module: torch.nn.Module, kind: type[torch.nn.Module]) -> list[torch.nn.Module]:
    """Return the modules of a kind that lie in no other one of it, the module itself included."""
    if isinstance(module, kind):
        return [module]
    return [found for child in module.children() for found in _outermost(child, kind)]


def _is_trained(module: torch.nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
