"""A first run of a model on made-up inputs: it pays what the first caller would pay, and shows whether rows are independent.

A model whose rows look at each other (a mean over the batch, a sequence along the first axis) must never be batched, and
no signature tells. So the trial runs one row, two rows, and all three together, and compares.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from headrace.errors import HeadraceError
from headrace.inference.tensors import Array, dtype_of
from headrace_inference.core.batching import Arrays, Runner
from headrace_inference.core.config import Sample
from headrace_inference.core.signature import Signature, Tensor

SEED = 8472  # any: the same model always gets the same verdict
# Axes that may vary get one of these sizes: short sequences first; some models want no less than a small picture.
SIZES = (8, 64)
# Dynamically quantized models scale by the largest value of the whole batch: about 1 % of noise is theirs by nature.
TOLERANCE = 0.05
WARM_RUNS = 8  # of each size: enough to try every way to run twice
WARM_S = 2.0  # seconds after which the first callers may as well come


def rows_are_independent(runner: Runner, signature: Signature) -> bool:
    """Run a model for the first time; return whether its requests may be joined into batches."""
    outputs = [tensor.name for tensor in signature.outputs]
    for size in SIZES:
        try:
            return _compare(runner, signature, outputs, size)
        except HeadraceError:  # the model does not like inputs of this size
            continue
    return False


def warm_up(runner: Runner, signature: Signature, rows: Sequence[int], clock: Callable[[], float]) -> int:
    """Run a model until it is as fast as it will be: memory is taken, threads are started, the fastest way is known.

    Args:
        rows: Lengths of the first axis, for a model whose first axis varies.
        clock: Tells the time, in seconds.
    Returns:
        How often it ran; 0 for a model that dislikes every made-up input.
    """
    end, runs = clock() + WARM_S, 0
    outputs = [tensor.name for tensor in signature.outputs]
    for size in SIZES:
        for count in rows:
            inputs = _inputs(signature, rows=count, size=size)
            try:
                for _ in range(WARM_RUNS):
                    if clock() < end:
                        runner.run(inputs, outputs)
                        runs += 1
            except HeadraceError:  # the model does not like inputs of this size
                break
        if runs:
            break
    return runs


def warm_up_with(runner: Runner, signature: Signature, samples: Sequence[Sample]) -> None:
    """Run what a configuration declares, as often as it says.

    Raises:
        HeadraceError: What the model says to one of them.
    """
    outputs = [tensor.name for tensor in signature.outputs]
    for sample in samples:
        inputs = _sampled(signature, sample)
        for _ in range(sample.count):
            runner.run(inputs, outputs)


def _sampled(signature: Signature, sample: Sample) -> Arrays:
    inputs = dict(_inputs(signature, rows=sample.rows, size=SIZES[0]))
    random = np.random.default_rng(SEED)
    rows = (sample.rows,) if signature.may_batch else ()
    for tensor in signature.inputs:
        if tensor.name in sample.shapes:
            inputs[tensor.name] = _made_up(tensor, (*rows, *sample.shapes[tensor.name]), random)
        if tensor.name in sample.zeros:
            inputs[tensor.name] = np.zeros_like(inputs[tensor.name])
    signature.check_inputs(inputs)
    return inputs


def _compare(runner: Runner, signature: Signature, outputs: Sequence[str], size: int) -> bool:
    if not signature.may_batch:
        runner.run(_inputs(signature, rows=1, size=size), outputs)
        return False
    one, two = (_inputs(signature, rows=rows, size=size) for rows in (1, 2))
    three = {name: np.concatenate([one[name], two[name]]) for name in one}
    apart = [runner.run(inputs, outputs) for inputs in (one, two)]
    joined = runner.run(three, outputs)
    return all(_same(joined[name], [part[name] for part in apart]) for name in outputs)


def _inputs(signature: Signature, *, rows: int, size: int) -> Arrays:
    random = np.random.default_rng(SEED + rows)
    batch = signature.inputs[0].axes[:1] if signature.may_batch else ()
    return {
        tensor.name: _made_up(tensor, tuple(_shape(tensor, batch, rows, size)), random)
        for tensor in signature.inputs
    }


def _shape(tensor: Tensor, batch: tuple[int | str, ...], rows: int, size: int) -> Iterator[int]:
    for position, axis in enumerate(tensor.axes):
        if position == 0 and batch:
            yield rows
        else:
            yield size if isinstance(axis, str) else axis


def _made_up(tensor: Tensor, shape: tuple[int, ...], random: np.random.Generator) -> Array:
    """Small numbers: 0 and 1 are valid classes, tokens and lengths in most models."""
    dtype = dtype_of(tensor.datatype)
    if tensor.datatype == "BYTES":
        return random.choice(np.array([b"a", b"b"], np.object_), shape)
    if tensor.datatype in ("FP16", "BF16", "FP32", "FP64"):
        return np.asarray(random.standard_normal(shape)).astype(dtype)
    return np.asarray(random.integers(0, 2, shape)).astype(dtype)


def _same(joined: Array, apart: Sequence[Array]) -> bool:
    if any(part.shape[:1] != (rows,) for rows, part in enumerate(apart, 1)):
        return False
    if len({part.shape[1:] for part in (joined, *apart)}) > 1:
        return False
    expected = np.concatenate(apart)
    if expected.shape != joined.shape:
        return False
    if expected.dtype.kind not in "fV":  # V: bfloat16
        return bool(np.array_equal(expected, joined))
    expected, joined = expected.astype(np.float64), joined.astype(np.float64)
    scale = float(np.max(np.abs(expected), initial=0, where=np.isfinite(expected)))
    return bool(np.allclose(joined, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True))
