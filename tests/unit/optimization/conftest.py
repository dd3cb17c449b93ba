"""The tiny programs, trained, exported and quantized once for all tests of this folder."""

from pathlib import Path

import pytest
from torch import nn

from headrace.program import Program
from headrace.testing.data import examples_of
from headrace_optimization.passes.export import export_model
from headrace_optimization.passes.quantize import quantize_int8
from tests.unit.optimization.tiny_programs import Bars, Successors, Sums, train

Files = dict[str, Path]


@pytest.fixture(scope="session")
def bars() -> nn.Module:
    return train(Bars(), 60)


@pytest.fixture(scope="session")
def sums() -> nn.Module:
    return train(Sums(), 200)


@pytest.fixture(scope="session")
def successors() -> nn.Module:
    return train(Successors(), 60)


@pytest.fixture(scope="session")
def bars_files(bars: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(Bars(), bars, tmp_path_factory.mktemp("bars"))


@pytest.fixture(scope="session")
def sums_files(sums: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(Sums(), sums, tmp_path_factory.mktemp("sums"))


@pytest.fixture(scope="session")
def successors_files(successors: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(Successors(), successors, tmp_path_factory.mktemp("successors"))


def make_files(program: Program, model: nn.Module, folder: Path) -> Files:
    inputs = examples_of(program, "train").inputs
    files = {"fp32": folder / "fp32.onnx", "int8": folder / "int8.onnx"}
    export_model(model, inputs, files["fp32"])
    quantize_int8(files["fp32"], inputs, 64, files["int8"])
    return files
