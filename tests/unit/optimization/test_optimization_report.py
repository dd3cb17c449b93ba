"""The report as a file, as a picture, and as what a version says of itself."""

import math
import struct
from typing import Any

import pytest
from pydantic import ValidationError

from headrace.optimization.report import Candidate, Gates, Latency, Options, Report
from headrace.program import Goal
from headrace_optimization.core.choice import choose
from headrace_optimization.core.gates import judge
from headrace_optimization.core.result import progress_metrics, task_metrics, version_labels, version_metrics
from headrace_optimization.passes.machine import describe_libraries, describe_machine
from headrace_optimization.passes.plot import draw_report

ACCURACY = Goal("accuracy", "max")


def make_report(int8_accuracy: float = 0.975, *, goal: Goal = ACCURACY, **gates: Any) -> Report:
    options = Options(
        precisions=("fp32", "int8"),
        gates=Gates(**({"max_metric_drop": 0.01, "min_speedup": None, "max_bytes": None} | gates)),
        objective="latency",
        calibration_examples=256,
        batch_sizes=(1, 8),
    )
    measured = (candidate("fp32", 0.98, 0.04, 155_000), candidate("int8", int8_accuracy, 0.02, 45_000))
    candidates = judge(measured, options.gates, goal)
    return Report(
        source_version="projects/default/models/digits/versions/1",
        goal=goal,
        options=options,
        test_examples=360,
        threads=1,
        machine=describe_machine(),
        libraries=describe_libraries(),
        candidates=candidates,
        pick=choose(candidates, options.objective),
    )


def candidate(name: str, accuracy: float, p50_ms: float, size_bytes: int) -> Candidate:
    latency = tuple(
        Latency(batch_size=size, p50_ms=p50_ms * size, p99_ms=p50_ms * size * 2, rounds=100)
        for size in (1, 8)
    )
    metrics = {"accuracy": accuracy}
    return Candidate(name=name, file=f"{name}.onnx", size_bytes=size_bytes, metrics=metrics, latency=latency)


def test_a_report_reads_back_as_it_was_written() -> None:
    report = make_report(min_speedup=1.5, max_bytes=100_000)
    assert Report.from_json(report.to_json()) == report


def test_a_metric_that_is_no_number_survives_the_file() -> None:
    read = Report.from_json(make_report(math.nan).to_json())
    assert math.isnan(read.candidate("int8").metrics["accuracy"])
    assert read.pick.candidate == "fp32"


def test_fields_of_a_newer_report_are_skipped_and_another_schema_is_refused() -> None:
    data = make_report().to_json()
    assert Report.from_json(data.replace(b"{", b'{"new_field": 1,', 1)) == make_report()
    with pytest.raises(ValidationError, match="schema_version"):
        Report.from_json(data.replace(b'"schema_version": 1', b'"schema_version": 2'))


def test_machine_and_libraries_are_named() -> None:
    assert {"system", "processor", "cores", "python"} <= {k for k, v in describe_machine().items() if v}
    assert {"torch", "onnx", "onnxruntime", "headrace"} <= describe_libraries().keys()


@pytest.mark.parametrize(
    "report",
    [
        make_report(),
        make_report(0.3, min_speedup=3.0, max_bytes=1000),
        make_report(math.nan),
        make_report(0.99, goal=Goal("accuracy", "min")),
    ],
    ids=["served", "failed", "not a number", "smaller is better"],
)
def test_the_plot_is_a_png_of_sensible_size(report: Report) -> None:
    image = draw_report(report)
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", image[16:24]) == (1575, 720)
    assert 20_000 < len(image) < 300_000


def test_a_version_carries_the_metrics_of_its_pick_and_of_each_candidate() -> None:
    assert version_metrics(make_report()) == {
        "accuracy": 0.975,
        "fp32.accuracy": 0.98,
        "int8.accuracy": 0.975,
    }
    assert version_metrics(make_report(math.nan)) == {"accuracy": 0.98, "fp32.accuracy": 0.98}


def test_a_task_tells_size_and_latency_of_each_candidate() -> None:
    metrics = task_metrics(make_report().candidates)
    assert metrics["int8.size_bytes"] == 45_000
    assert metrics["int8.batch8.p50_ms"] == pytest.approx(0.16)
    assert metrics["fp32.batch1.p99_ms"] == pytest.approx(0.08)


def test_labels_fit_the_registry() -> None:
    labels = version_labels(make_report())
    assert labels["precision"] == "int8"
    assert len(labels) <= 64
    assert all(len(key) <= 256 and 0 < len(value) <= 256 for key, value in labels.items())


def test_progress_names_of_each_candidate_the_goal_and_what_is_no_metric_of_the_program() -> None:
    plain = make_report().candidates
    chatty = [
        one.model_copy(update={"metrics": {**one.metrics, "loss": 0.5, "recall_3": 0.9}}) for one in plain
    ]
    assert progress_metrics(chatty, "accuracy") == task_metrics(plain)
