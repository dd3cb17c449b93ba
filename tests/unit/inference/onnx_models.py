"""Small ONNX models for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

IR_VERSION = 10  # of the onnx files that the oldest supported onnxruntime reads
OPSET = 20

Axes = Sequence[int | str | None]

ELEMENT_TYPES: dict[str, int] = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "BF16": TensorProto.BFLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BYTES": TensorProto.STRING,
}


def tensor(name: str, datatype: str, axes: Axes) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENT_TYPES[datatype], axes)


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **weights: np.ndarray[Any, Any],
) -> bytes:
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, initializer=initializers)
    opsets = [helper.make_opsetid("", OPSET)]
    proto = helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)
    return proto.SerializeToString()


def identity(datatype: str, axes: Axes = ("n", "m")) -> bytes:
    """Make y = x, of any datatype."""
    return model(
        [helper.make_node("Identity", ["x"], ["y"])],
        [tensor("x", datatype, axes)],
        [tensor("y", datatype, axes)],
    )


def affine(factor: float = 2.0, *, first: int | str | None = "n") -> bytes:
    """Make scaled = factor * x and shifted = x + 1, both FP32 of shape [first, 3]."""
    return model(
        [
            helper.make_node("Mul", ["x", "factor"], ["scaled"]),
            helper.make_node("Add", ["x", "one"], ["shifted"]),
        ],
        [tensor("x", "FP32", (first, 3))],
        [tensor("scaled", "FP32", (first, 3)), tensor("shifted", "FP32", (first, 3))],
        factor=np.array(factor, np.float32),
        one=np.array(1, np.float32),
    )


def matmul(size: int) -> bytes:
    """Make y = x @ w, with size x size random weights."""
    weights = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", "FP32", ("n", size))],
        [tensor("y", "FP32", ("n", size))],
        w=weights,
    )


def gather() -> bytes:
    """Make y = table[x], with a table of 3 rows of 2: an index of 3 or more fails while it runs."""
    return model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [tensor("x", "INT64", ("n",))],
        [tensor("y", "FP32", ("n", 2))],
        table=np.arange(6, dtype=np.float32).reshape(3, 2),
    )


def vast() -> bytes:
    """Make y of 2**40 x 2**10 elements from x of one."""
    return model(
        [helper.make_node("Expand", ["x", "shape"], ["y"])],
        [tensor("x", "FP32", (1,))],
        [tensor("y", "FP32", ("a", "b"))],
        shape=np.array([1 << 40, 1 << 10]),
    )


def mean_of_the_batch() -> bytes:
    """Make y = x - mean over the first axis: the rows look at each other."""
    return model(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        [tensor("x", "FP32", ("n", 3))],
        [tensor("y", "FP32", ("n", 3))],
        axes=np.array([0]),
    )


def external_weights(location: str) -> bytes:
    """Make y = x @ w, where w lies in a file of its own."""
    weights = TensorProto(
        name="w", data_type=TensorProto.FLOAT, dims=[2, 2], data_location=TensorProto.EXTERNAL
    )
    weights.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "test",
        [tensor("x", "FP32", ("n", 2))],
        [tensor("y", "FP32", ("n", 2))],
        initializer=[weights],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets).SerializeToString()
