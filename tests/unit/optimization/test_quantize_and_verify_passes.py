"""int8 forms of tiny real models, and what verification finds out about good and bad ones."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import nn

from headrace.data.dataset import open_data
from headrace.errors import FailedPrecondition, ProgramFailed
from headrace.optimization.report import Candidate, Gates
from headrace.program import Examples, Goal, Program
from headrace.program.calls import load_split, measured
from headrace_optimization.core.choice import choose
from headrace_optimization.core.gates import judge
from headrace_optimization.passes.export import export_model
from headrace_optimization.passes.latency import LEAST_ROUNDS, measure_latency
from headrace_optimization.passes.quantize import quantize_int8
from headrace_optimization.passes.session import count_examples, open_session, run_batches
from headrace_optimization.passes.verify import verify
from tests.unit.optimization.tiny_programs import Bars, Raising, Successors, Sums

Files = dict[str, Path]
GATES = Gates(max_metric_drop=0.02, min_speedup=None, max_bytes=None)
MODELS = pytest.mark.parametrize(
    ("name", "program"), [("bars", Bars()), ("sums", Sums()), ("successors", Successors())]
)


def measure(program: Program, files: Mapping[str, Path]) -> tuple[Candidate, ...]:
    return verify(files, program, open_data(program.data("test")), batch_sizes=(1, 3), threads=1)


@MODELS
def test_int8_is_smaller_works_at_any_batch_size_and_passes_its_gates(
    name: str, program: Program, request: pytest.FixtureRequest
) -> None:
    files: Files = request.getfixturevalue(f"{name}_files")

    fp32, int8 = judge(measure(program, files), GATES, program.goal)

    assert fp32.metrics["accuracy"] > 0.9, "the tiny model learned nothing, so this test would show nothing"
    assert int8.passed, int8.gates
    assert int8.size_bytes == files["int8"].stat().st_size
    assert [latency.batch_size for latency in int8.latency] == [1, 3]
    assert fp32.kernel_difference is None
    assert int8.kernel_difference is not None
    assert int8.kernel_difference < 0.02, "integer kernels round; they do not saturate"
    assert set(files["int8"].parent.iterdir()) == set(files.values()), "nothing else is left in the folder"


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def test_convolutions_are_quantized_statically_with_seven_bit_weights_per_channel(
    bars_files: Files,
) -> None:
    int8 = bars_files["int8"]
    assert {"QuantizeLinear", "DequantizeLinear"} <= operators(int8)
    assert "DynamicQuantizeLinear" not in operators(int8)
    weights = [
        numpy_helper.to_array(tensor)
        for tensor in onnx.load(int8).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert len(weights) == 2
    for codes in weights:
        per_channel = np.abs(codes.astype(int)).reshape(len(codes), -1).max(1)
        assert set(per_channel) <= {63, 64}, "each channel fills its own range, of 7 bits"


@MODELS
def test_only_operator_sets_that_are_used_are_declared(
    name: str, program: Program, request: pytest.FixtureRequest
) -> None:
    int8 = onnx.load(request.getfixturevalue(f"{name}_files")["int8"])
    assert {entry.domain for entry in int8.opset_import} == {node.domain for node in int8.graph.node}


def test_matrix_products_are_quantized_dynamically(successors_files: Files) -> None:
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= operators(successors_files["int8"])


def test_a_model_without_anything_to_quantize_is_refused_with_advice(tmp_path: Path) -> None:
    inputs = {"x": np.ones((4, 3), np.float32)}
    export_model(Rectified().eval(), inputs, tmp_path / "fp32.onnx")
    with pytest.raises(FailedPrecondition, match="ask for fp32 only"):
        quantize_int8(tmp_path / "fp32.onnx", inputs, 4, tmp_path / "int8.onnx")


class Rectified(nn.Module):
    def forward(self, x: Any) -> Any:
        return x.relu()


def spoil(path: Path, value: float) -> None:
    """Overwrite every scale of weights: the planted bad candidate."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.name.endswith("_scale"):
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(array, value), tensor.name))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("value", [1e-30, math.nan])
def test_a_planted_bad_candidate_is_reported_with_its_reason_and_not_chosen(
    value: float, sums_files: Files, tmp_path: Path
) -> None:
    program = MeanError()
    files = sums_files | {"int8": Path(shutil.copy(sums_files["int8"], tmp_path))}
    spoil(files["int8"], value)

    judged = judge(measure(program, files), GATES, program.goal)

    assert not judged[1].passed
    assert judged[1].gates[0].reason.startswith("error ")
    for objective in ("latency", "size"):
        assert choose(judged, objective).candidate == "fp32"


class MeanError(Sums):
    """A goal that is to be small, and that becomes NaN when outputs do."""

    goal = Goal("error", "min")

    def metrics(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        chances = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
        return {"error": float(1 - chances[np.arange(len(targets)), targets].mean())}


def test_a_whole_split_is_run_whatever_its_length(bars_files: Files) -> None:
    session = open_session(bars_files["fp32"].read_bytes())
    inputs = Bars().data("test").inputs
    assert count_examples(inputs) % 64, "the last batch is a short one"
    assert len(run_batches(session, inputs)) == count_examples(inputs)


def test_latency_is_measured_often_enough_even_without_time(bars_files: Files) -> None:
    session = open_session(bars_files["fp32"].read_bytes())
    latency = measure_latency({"fp32": session}, Bars().data("test").inputs, (2, 1), seconds=0)["fp32"]
    assert [one.batch_size for one in latency] == [2, 1]
    assert all(one.rounds == LEAST_ROUNDS and 0 < one.p50_ms <= one.p99_ms for one in latency)


OUTPUTS, TARGETS = np.zeros((2, 4)), np.zeros(2)


class NoGoal(Bars):
    goal = Goal("recall", "max")


class NoNumber(Bars):
    def metrics(self, outputs: Any, targets: Any) -> Mapping[str, float]:
        return {"accuracy": "high"}  # type: ignore[dict-item]  # the mistake under test


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (Raising(), r"metrics\(\) raised ZeroDivisionError: no measure of mine"),
        (NoGoal(), "returns accuracy, but the goal is 'recall'"),
        (NoNumber(), r"metrics\(\) returned 'high' as 'accuracy'"),
    ],
)
def test_a_program_without_a_usable_metric_is_blamed(program: Program, says: str) -> None:
    with pytest.raises(ProgramFailed, match=says):
        measured(program, OUTPUTS, TARGETS)


class Ragged(Bars):
    def data(self, split: str) -> Examples:
        return Examples({"image": np.zeros((3, 1, 8, 8), np.float32)}, np.zeros(2))


class Empty(Bars):
    def data(self, split: str) -> Examples:
        return Examples({"image": np.zeros((0, 1, 8, 8), np.float32)}, np.zeros(0))


@pytest.mark.parametrize("program", [Ragged(), Empty()])
def test_a_split_that_is_ragged_or_empty_is_blamed_on_the_program(program: Program) -> None:
    with pytest.raises(ProgramFailed, match=r"return (at least one|as many of each)"):
        load_split(program, "test")
