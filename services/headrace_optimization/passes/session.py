"""Run ONNX models on arrays with onnxruntime, on the CPU."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort

Arrays = Mapping[str, np.ndarray[Any, Any]]

# Outputs of one batch are held at a time besides the collected ones; larger batches are not faster on a CPU.
RUN_BATCH = 64


def open_session(model: bytes, *, threads: int = 1, fused: bool = True) -> ort.InferenceSession:
    """Load an ONNX model.

    Args:
        threads: Threads one operator computes with.
        fused: False keeps the graph as it is written, so that quantized operators are emulated in float32.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Named although it is the default here: a GPU of this machine must not decide what is measured.
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_model(session: ort.InferenceSession, inputs: Arrays) -> np.ndarray[Any, Any]:
    """Return the model's one output for a batch."""
    output: np.ndarray[Any, Any] = session.run(None, dict(inputs))[0]
    return output


def run_batches(session: ort.InferenceSession, inputs: Arrays) -> np.ndarray[Any, Any]:
    """Return the output for many examples, computed batch by batch."""
    return np.concatenate([run_model(session, batch) for batch in batches(inputs, RUN_BATCH)])


def batches(inputs: Arrays, size: int) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    """Cut a split into batches of `size`, the last one shorter."""
    for start in range(0, count_examples(inputs), size):
        yield {name: array[start : start + size] for name, array in inputs.items()}


def take(inputs: Arrays, indices: Sequence[int]) -> dict[str, np.ndarray[Any, Any]]:
    """Pick examples by their indices; beyond the last example it begins again with the first."""
    wrapped = np.asarray(indices) % count_examples(inputs)
    return {name: array[wrapped] for name, array in inputs.items()}


def count_examples(inputs: Arrays) -> int:
    """Return the length of the first axis."""
    return len(next(iter(inputs.values())))
