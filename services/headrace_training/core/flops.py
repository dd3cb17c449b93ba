"""How much of the machine's arithmetic a rank uses: model FLOPs utilization.

MFU = samples per second x FLOPs per sample / peak FLOPs per second (Chowdhery et al. 2022, PaLM, arXiv:2204.02311, appendix B). The FLOPs are
those of matrix products, convolutions and attention in one forward and backward pass, 2 for each multiplication with its
addition, as torch.utils.flop_counter counts them. What is computed again does not count, by that definition ("hardware FLOPs utilization"
would have it): not the scores of attention in its backward pass, and not what torch.utils.checkpoint has let go of.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch.utils import checkpoint
from torch.utils.flop_counter import FlopCounterMode, _FlopCounterMode, flop_registry, sdpa_flop_count

from headrace_training.core.device import HOST, Device

_SIZE = (
    1024  # of the square matrices: large enough for blocking, small enough for every cache level to be warm
)
_GPU_SIZE = 8192  # 2**40 FLOPs: a GPU is busy for a millisecond or more, which its start is nothing against

Shape = Sequence[int]


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # torch does not type it


def _attention_backward(
    _gradient: Shape, query: Shape, key: Shape, value: Shape, *_: object, **__: object
) -> int:
    # Four products for the two of the forward pass; that flash attention computes the scores again does not count.
    return 2 * int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # likewise


# torch knows the attention of GPUs, and counts the scores that its backward pass computes again; the CPU's it counts as nothing.
_aten = torch.ops.aten
_ATTENTION: dict[Any, Any] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001 - an operator, not an attribute
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,  # noqa: SLF001 - likewise
    _aten._scaled_dot_product_flash_attention_backward: _attention_backward,  # noqa: SLF001 - likewise
    _aten._scaled_dot_product_efficient_attention_backward: _attention_backward,  # noqa: SLF001 - likewise
    _aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,  # noqa: SLF001 - likewise
}


def _computes_again() -> bool:
    """Whether a forward pass is repeated within a backward pass, by either kind of torch.utils.checkpoint.

    A backward pass has no gradients of its own computations, unless it was asked for them, as for a penalty on gradients: so one looks who
    calls.
    """
    if torch._C._current_graph_task_id() < 0 or not torch.is_grad_enabled():  # noqa: SLF001 - as torch.utils.checkpoint asks
        return False
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - the way to ask for it
    while frame and frame.f_code.co_filename != checkpoint.__file__:
        frame = frame.f_back
    return frame is not None


def _once(formula: Callable[..., int]) -> Callable[..., int]:
    """Return a formula that counts nothing for what is computed again."""

    def count(*args: object, **kwargs: object) -> int:
        return 0 if _computes_again() else formula(*args, **kwargs)

    ours = formula in _ATTENTION.values()  # they take shapes, and torch's own take tensors
    count.__dict__["_get_raw"] = not ours
    return count


def _formulas() -> dict[Any, Any]:
    return {operator: _once(formula) for operator, formula in (flop_registry | _ATTENTION).items()}


def _without_compiler() -> AbstractContextManager[object]:
    """Let a model that is to be compiled compute by itself: what torch.compile met under a counter, it would never compile.

    Where nothing was to be compiled yet, the compiler is not imported for it: that takes as long as torch itself. A wrapper around what
    the counter does would import it, unless it is told what to call instead; a torch without that wrapper is left as it is.
    """
    if "torch._dynamo" in sys.modules:
        stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
        return stance
    count = getattr(_FlopCounterMode.__torch_dispatch__, "__wrapped__", None)
    if count is not None:
        count.__dict__.setdefault("__dynamo_disable", count)
    return nullcontext()


class FlopMeter:
    """Counts in one step, then tells the utilization.

    Args:
        peak: FLOPs per second that the rank could do at most; 0: nothing is counted or told.
    """

    def __init__(self, peak: float) -> None:
        self._peak = peak
        self.per_sample = 0.0  # until a step was counted

    @contextmanager
    def counting(self, samples: int) -> Iterator[None]:
        """Count what is computed for so many samples, >= 1, the first time; then do nothing."""
        if not self._peak or self.per_sample:
            yield
            return
        counter = FlopCounterMode(display=False, custom_mapping=_formulas())
        # Without the counter's own hooks on modules: they do not bear torch.autograd.grad within a step.
        with _without_compiler(), _FlopCounterMode(counter):
            yield
        self.per_sample = counter.get_total_flops() / samples

    def metrics(self, samples_per_s: float) -> dict[str, float]:
        """Return `mfu`, 0 to about 1, at this throughput of the rank; nothing as long as it is not known."""
        if not self._peak or not self.per_sample or not samples_per_s:
            return {}
        return {"mfu": samples_per_s * self.per_sample / self._peak}


def measured_peak(seconds: float, clock: Callable[[], float], device: Device = HOST, *, bf16: bool) -> float:
    """Return the FLOPs per second of the best of several products of square matrices, on the threads that torch now has, or on a GPU.

    Args:
        seconds: How long to try; there is at least one product.
        clock: Returns seconds.
        bf16: In bfloat16 instead of float32.
    """
    size = _SIZE if device.is_host else _GPU_SIZE
    left = torch.ones(size, size, dtype=torch.bfloat16 if bf16 else torch.float32, device=device.place)
    right = torch.ones_like(left)
    _ = left @ right  # the first one wakes threads and fills caches
    device.wait()
    began, best = clock(), float("inf")
    while True:
        before = clock()
        _ = left @ right
        device.wait()
        after = clock()
        best = min(best, max(after - before, 1e-9))
        if after - began >= seconds:
            return 2 * size**3 / best
