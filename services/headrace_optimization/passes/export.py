"""Export: from a torch module to an ONNX file whose first axis is a free batch, equal to torch within a tolerance."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from headrace.errors import ProgramFailed
from headrace_optimization.passes.session import Arrays, open_session, run_model, take

# The newest operator set whose every operator the quantization tools of onnxruntime 1.23 know; servers read it since onnxruntime 1.17.
OPSET = 20
OUTPUT = "output"
BATCH = "batch"

# Sizes that a graph with a frozen batch, or one that treats 1 specially, cannot all get right.
PARITY_BATCH_SIZES = (1, 2, 3, 7)
# float32 sums in another order: measured differences are below 1e-6 for the examples; a wrong operator is off by far more.
PARITY_ABSOLUTE, PARITY_RELATIVE = 1e-4, 1e-3

TRACED_EXAMPLES = 2  # torch.export takes a size of 1 for a constant
MAX_MODEL_BYTES = (2 << 30) - 1  # protobuf cannot hold more, and what is served is one file

VALUE_DEPENDENT_REMEDY = (
    "; forward may branch on shapes, not on values: use torch.where instead of `if` on values"
)


def export_model(model: torch.nn.Module, inputs: Arrays, path: Path) -> None:
    """Write `model` as one ONNX file with its weights inside.

    Args:
        model: In eval mode. Its forward takes `inputs` by name and returns one tensor whose first axis is the batch.
        inputs: At least one example of every input.
        path: Where to write; the graph's inputs are called as in `inputs`, its output "output".
    Raises:
        ProgramFailed: The model cannot be exported, fixes the batch size, is too large, or computes something else
            in onnxruntime than in torch; the message says which, and why.
    """
    graph = _trace(model, inputs)
    _check_graph(graph)
    path.write_bytes(graph.SerializeToString())
    check_parity(model, path, inputs)


def _trace(model: torch.nn.Module, inputs: Arrays) -> onnx.ModelProto:
    tensors = as_tensors(take(inputs, range(TRACED_EXAMPLES)))
    batch = torch.export.Dim(BATCH)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of every absent optional package
    try:
        program = torch.onnx.export(
            model,
            kwargs=tensors,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(tensors),
            output_names=[OUTPUT],
            dynamic_shapes={name: {0: batch} for name in tensors},
            external_data=False,
            verbose=False,
        )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise ProgramFailed(f"the model cannot be exported to ONNX: {_reason(error)}") from error
    assert program is not None  # with dynamo=True and no path given
    return tidied(program.model_proto)


def _reason(error: BaseException) -> str:
    """Find what went wrong below torch's advice on how to file an issue with it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    remedy = VALUE_DEPENDENT_REMEDY if "data-dependent" in str(error) else ""
    return f"{type(error).__name__}: {' '.join(lines[:1])}{remedy}"


def tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop, in place, what the tools note down beside the model itself, and return it.

    Notes hold source paths of the machine that exported. Shapes of weights repeat what the weights say, and become wrong
    when quantization transposes them.
    """
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    shapes = [value for value in graph.value_info if value.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(shapes)
    for node in graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
        value.ClearField("doc_string")
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
        tensor.ClearField("doc_string")
    del model.metadata_props[:], graph.metadata_props[:]
    return model


def _check_graph(graph: onnx.ModelProto) -> None:
    """Refuse a graph that could not be served."""
    if graph.ByteSize() > MAX_MODEL_BYTES:
        raise ProgramFailed(
            f"the exported model has {graph.ByteSize()} bytes, over the 2 GiB that one ONNX file can hold"
        )
    opset = next(entry.version for entry in graph.opset_import if entry.domain == "")
    assert opset == OPSET, f"asked for opset {OPSET}, got {opset}"
    outputs = [value.name for value in graph.graph.output]
    if outputs != [OUTPUT]:
        raise ProgramFailed(
            f"the model returns {len(outputs)} tensors; return one, with the batch as its first axis"
        )
    for value in (*graph.graph.input, *graph.graph.output):
        _check_batch_axis(value)
    onnx.checker.check_model(graph)


def _check_batch_axis(value: onnx.ValueInfoProto) -> None:
    axes = value.type.tensor_type.shape.dim
    if not axes or axes[0].dim_param != BATCH:
        size = axes[0].dim_param or axes[0].dim_value if axes else "missing"
        raise ProgramFailed(
            f"the first axis of {value.name!r} became {size} instead of any batch size; "
            "do not write a batch size into forward, take it from the input's shape"
        )


def check_parity(
    model: torch.nn.Module, path: Path, inputs: Arrays, batch_sizes: Sequence[int] = PARITY_BATCH_SIZES
) -> float:
    """Compare the file with torch at several batch sizes.

    Returns:
        The largest absolute difference of any output value.
    Raises:
        ProgramFailed: Some value differs by more than 1e-4 + 1e-3 * |torch's value|, or has another shape.
    """
    session = open_session(path.read_bytes())
    largest = 0.0
    for batch_size in batch_sizes:
        batch = take(inputs, range(batch_size))
        with torch.inference_mode():
            expected = model(**as_tensors(batch)).numpy()
        largest = max(largest, _compare(run_model(session, batch), expected, batch_size))
    return largest


def _compare(actual: np.ndarray[Any, Any], expected: np.ndarray[Any, Any], batch_size: int) -> float:
    if actual.shape != expected.shape:
        raise ProgramFailed(
            f"at batch {batch_size} the exported model returns shape {actual.shape}, torch {expected.shape}"
        )
    if np.allclose(actual, expected, rtol=PARITY_RELATIVE, atol=PARITY_ABSOLUTE, equal_nan=True):
        return float(np.max(np.abs(actual - expected), initial=0.0))
    raise ProgramFailed(
        f"at batch {batch_size} the exported model differs from torch by up to {np.max(np.abs(actual - expected)):.3g}; "
        "a forward that depends on chance or on data it keeps cannot be exported"
    )


def as_tensors(arrays: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, torch.Tensor]:
    """Copy arrays into torch."""
    return {name: torch.tensor(array) for name, array in arrays.items()}
