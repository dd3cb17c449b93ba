"""Models to measure servers with; their weights are random, and cost as much as trained ones."""

import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from headrace.inference.tensors import Array

if TYPE_CHECKING:
    import torch

_OPSET = 20


def _graph(
    name: str,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    shapes: tuple[list[str | int], list[str | int]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shapes[0])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shapes[1])],
        initializer=weights,
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", _OPSET)])
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def perceptron(*sizes: int) -> bytes:
    """Make layers of these sizes with a ReLU after each: "x" (batch, first) to "y" (batch, last), float32."""
    random = np.random.default_rng(0)
    nodes, weights, value = [], [], "x"
    for layer, shape in enumerate(itertools.pairwise(sizes)):
        weights.append(numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), f"w{layer}"))
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"h{layer}"]))
        value = "y" if layer == len(sizes) - 2 else f"r{layer}"
        nodes.append(helper.make_node("Relu", [f"h{layer}"], [value]))
    return _graph("perceptron", nodes, weights, (["batch", sizes[0]], ["batch", sizes[-1]]))


def identity() -> bytes:
    """Make a model that returns what it gets: "x" to "y", (batch, values), float32."""
    return _graph(
        "identity",
        [helper.make_node("Identity", ["x"], ["y"])],
        [],
        (["batch", "values"], ["batch", "values"]),
    )


def residual() -> tuple[bytes, dict[str, Array]]:
    """Make a residual net of 18 layers (He et al. 2015, arXiv:1512.03385, table 1) for 3 x 64 x 64 pixels, and one input for it."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int) -> None:
            super().__init__()
            self.path = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1), nn.ReLU(), nn.Conv2d(after, after, 3, 1, 1)
            )
            same = before == after and stride == 1
            self.short = nn.Identity() if same else nn.Conv2d(before, after, 1, stride)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.path(x) + self.short(x))

    widths = [
        (64, 64, 1),
        (64, 64, 1),
        (64, 128, 2),
        (128, 128, 1),
        (128, 256, 2),
        (256, 256, 1),
        (256, 512, 2),
        (512, 512, 1),
    ]

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
            self.blocks = nn.Sequential(*(Block(*width) for width in widths))
            self.head = nn.Linear(512, 1000)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features: torch.Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
            return features

    torch.manual_seed(0)
    return _exported(
        Residual(), {"x": np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)}
    )


def sentence_encoder() -> tuple[bytes, dict[str, Array]]:
    """Make an encoder of MiniLM's size (Wang et al. 2020, arXiv:2002.10957: 6 layers, 384 wide, 12 heads; 64 tokens), and one input for it."""
    import torch
    from torch import nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(30_522, 384)
            layer = nn.TransformerEncoderLayer(
                384, 12, 1536, dropout=0.0, activation="gelu", batch_first=True
            )
            self.layers = nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            mean: torch.Tensor = self.layers(self.embedding(x)).mean(1)
            return mean

    torch.manual_seed(0)
    return _exported(Encoder(), {"x": np.random.default_rng(0).integers(0, 30_522, (2, 64))})


def _exported(module: "torch.nn.Module", inputs: dict[str, Array]) -> tuple[bytes, dict[str, Array]]:
    from headrace_optimization.passes.export import export_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        export_model(module.eval(), inputs, path)
        return path.read_bytes(), {name: array[:1] for name, array in inputs.items()}
