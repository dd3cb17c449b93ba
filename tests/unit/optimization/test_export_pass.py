"""From torch to ONNX: the same numbers at any batch size, or a reason on one screen."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from headrace.errors import ProgramFailed
from headrace.program import Program
from headrace.testing.data import examples_of
from headrace_optimization.calls import load_model
from headrace_optimization.passes.export import OPSET, as_tensors, check_parity, export_model
from headrace_optimization.passes.session import open_session, run_model, take
from tests.unit.optimization.tiny_programs import Bars, Successors, Sums, save

INPUTS = {"x": np.ones((4, 3), np.float32)}
MODELS = pytest.mark.parametrize(
    ("name", "program"), [("bars", Bars()), ("sums", Sums()), ("successors", Successors())]
)


def export(model: nn.Module, folder: Path) -> Path:
    path = folder / "model.onnx"
    export_model(model, INPUTS, path)
    return path


@MODELS
def test_an_exported_model_equals_torch_at_odd_batch_sizes(
    name: str, program: Program, request: pytest.FixtureRequest
) -> None:
    model: nn.Module = request.getfixturevalue(name)
    files: dict[str, Path] = request.getfixturevalue(f"{name}_files")
    inputs = examples_of(program, "test").inputs
    session = onnxruntime.InferenceSession(files["fp32"].read_bytes(), providers=["CPUExecutionProvider"])
    for batch_size in (1, 2, 3, 7, 13):
        batch = take(inputs, range(batch_size))
        with torch.inference_mode():
            expected = model(**as_tensors(batch)).numpy()
        np.testing.assert_allclose(run_model(session, batch), expected, rtol=1e-4, atol=1e-5)


def test_the_file_is_whole_and_names_inputs_as_the_program_does(sums_files: dict[str, Path]) -> None:
    graph = onnx.load(sums_files["fp32"], load_external_data=False)
    assert [value.name for value in graph.graph.input] == ["left", "right"]
    assert [value.name for value in graph.graph.output] == ["output"]
    assert [entry.version for entry in graph.opset_import] == [OPSET]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in graph.graph.input} == {"batch"}
    assert all(not tensor.external_data for tensor in graph.graph.initializer)


def test_the_files_do_not_tell_where_they_were_made(bars_files: dict[str, Path]) -> None:
    for path in bars_files.values():
        assert str(Path(__file__).parent).encode() not in path.read_bytes()


class Branching(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 3) * 2


class TwoOutputs(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x * 2, x


class Reduced(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean()


class Exotic(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor = torch.special.bessel_j0(x)
        return values


class Renamed(nn.Module):
    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (Branching(), "data-dependent.*; .* use torch.where instead of `if` on values$"),
        (FixedBatch(), "became 2 instead of any batch size"),
        (TwoOutputs(), "returns 2 tensors"),
        (Reduced(), "first axis of 'output' became missing"),
        (Exotic(), "bessel_j0"),
        (Renamed(), "missing a required argument: 'y'"),
    ],
)
def test_a_model_that_cannot_be_served_is_refused_with_the_reason_in_one_line(
    model: nn.Module, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ProgramFailed, match=says) as refused:
        export(model.eval(), tmp_path)
    assert len(refused.value.message) < 500
    assert "\n" not in refused.value.message
    assert "pytorch.org" not in refused.value.message


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    path = export(Doubling(2.0).eval(), tmp_path)
    with pytest.raises(
        ProgramFailed, match=r"at batch 1 the exported model differs from torch by up to 0\.01"
    ):
        check_parity(Doubling(2.01), path, INPUTS)


class Doubling(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def test_weights_of_tied_tensors_are_loaded_by_one_name(successors: nn.Module, tmp_path: Path) -> None:
    save(successors, tmp_path / "w.safetensors")
    loaded = load_model(Successors(), tmp_path / "w.safetensors")
    assert not loaded.training
    for (name, value), again in zip(
        successors.state_dict().items(), loaded.state_dict().values(), strict=True
    ):
        assert torch.equal(value, again), name


@pytest.mark.parametrize("other", [Sums(), Bars()])
def test_weights_of_another_model_are_refused(successors: nn.Module, other: Program, tmp_path: Path) -> None:
    save(successors, tmp_path / "w.safetensors")
    with pytest.raises(ProgramFailed, match="the weights do not fit the program's model"):
        load_model(other, tmp_path / "w.safetensors")


def test_a_damaged_weights_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ProgramFailed, match="the weights do not fit"):
        load_model(Bars(), tmp_path / "w.safetensors")


def test_sessions_compute_on_the_cpu_whatever_else_the_machine_has(bars_files: dict[str, Path]) -> None:
    session = open_session(bars_files["fp32"].read_bytes())
    assert session.get_providers() == ["CPUExecutionProvider"]
