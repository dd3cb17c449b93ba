"""The check that keeps pickle out of the tree."""

import pytest

from tools.forbid_unsafe_loading import find_unsafe_loading


def what(source: str) -> list[str]:
    return [finding.what for finding in find_unsafe_loading(source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import pickle", "pickle"),
        ("import pickle as p", "pickle"),
        ("from pickle import loads", "pickle"),
        ("import joblib.numpy_pickle", "joblib"),
        ("def late():\n    import dill", "dill"),
        ("import torch\ntorch.load('x')", "torch.load"),
        ("import torch as t\nload = t.load", "torch.load"),
        ("from torch import load", "torch.load"),
        ("from torch import serialization as s", "torch.serialization"),
        ("import torch.jit\ntorch.jit.load('x')", "torch.jit.load"),
        ("import numpy as np\nnp.load('x')", "numpy.load"),
        ("read('x', allow_pickle=True)", "allow_pickle="),
    ],
)
def test_every_way_to_unpickle_is_found(source: str, expected: str) -> None:
    assert what(source) == [expected]


@pytest.mark.parametrize(
    "source",
    [
        "from safetensors.torch import load",
        "import json\njson.load(file)",
        "import onnx\nonnx.load_model_from_string(data)",
        "module.load_state_dict(state)",
        "# pickle is only a word here\nname = 'torch.load'",
        "from . import pickle_free",
    ],
)
def test_safe_loading_is_let_through(source: str) -> None:
    assert what(source) == []


def test_a_finding_names_its_line() -> None:
    assert [finding.line for finding in find_unsafe_loading("import torch\n\ntorch.load('x')\n")] == [3]
