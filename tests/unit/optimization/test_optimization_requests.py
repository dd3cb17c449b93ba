"""What a request for an optimization may say, and what it means when it says nothing."""

import math

import pytest

from headrace.errors import InvalidArgument
from headrace.optimization.options import read_options
from headrace.optimization.report import Gates, Options
from headrace.optimization.v1.optimizer_pb2 import Gates as GatesMessage
from headrace.optimization.v1.optimizer_pb2 import Objective, OptimizationOptions, Precision, StartTaskRequest
from headrace.registry.v1.models_pb2 import File, FileRole, Version
from headrace.types.v1.program_pb2 import Program
from headrace_optimization.registration import work_key
from headrace_optimization.wire import check_request, weights_of

TASK, VERSION = "projects/default/tasks/t", "projects/default/models/m/versions/1"


def test_an_empty_request_asks_for_int8_with_the_documented_defaults() -> None:
    assert read_options(OptimizationOptions()) == Options(
        precisions=("fp32", "int8"),
        gates=Gates(max_metric_drop=0.01, min_speedup=None, max_bytes=None),
        objective="latency",
        calibration_examples=256,
        batch_sizes=(1, 8),
    )


def test_fp32_alone_can_be_asked_for() -> None:
    assert read_options(OptimizationOptions(precisions=[Precision.PRECISION_FP32])).precisions == ("fp32",)


def test_a_precision_named_twice_is_made_once() -> None:
    asked = [Precision.PRECISION_INT8, Precision.PRECISION_FP32, Precision.PRECISION_INT8]
    assert read_options(OptimizationOptions(precisions=asked)).precisions == ("fp32", "int8")


def test_a_drop_of_zero_is_not_the_default() -> None:
    options = read_options(OptimizationOptions(gates=GatesMessage(max_metric_drop=0)))
    assert options.gates.max_metric_drop == 0


@pytest.mark.parametrize(
    ("options", "field", "says"),
    [
        (OptimizationOptions(precisions=[7]), "options.precisions", "precision 7 is unknown"),  # type: ignore[list-item]
        (OptimizationOptions(precisions=[0]), "options.precisions", "PRECISION_INT8"),  # type: ignore[list-item]
        (OptimizationOptions(objective=9), "options.objective", "OBJECTIVE_SIZE"),  # type: ignore[arg-type]
        (
            OptimizationOptions(gates=GatesMessage(max_metric_drop=-0.1)),
            "options.gates.max_metric_drop",
            "-0.1",
        ),
        (
            OptimizationOptions(gates=GatesMessage(max_metric_drop=math.nan)),
            "options.gates.max_metric_drop",
            "nan",
        ),
        (OptimizationOptions(gates=GatesMessage(min_speedup=0)), "options.gates.min_speedup", "> 0"),
        (
            OptimizationOptions(gates=GatesMessage(min_speedup=math.inf)),
            "options.gates.min_speedup",
            "finite",
        ),
        (OptimizationOptions(gates=GatesMessage(max_bytes=0)), "options.gates.max_bytes", "unset"),
        (OptimizationOptions(batch_sizes=[1, 0]), "options.batch_sizes", "batch size 0"),
        (OptimizationOptions(batch_sizes=[1 << 31]), "options.batch_sizes", "1024"),
        (OptimizationOptions(batch_sizes=[4, 4]), "options.batch_sizes", "repeat"),
        (OptimizationOptions(batch_sizes=range(1, 20)), "options.batch_sizes", "fewer"),
        (
            OptimizationOptions(calibration_examples=1 << 30),
            "options.calibration_examples",
            "a few hundred",
        ),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_field(
    options: OptimizationOptions, field: str, says: str
) -> None:
    with pytest.raises(InvalidArgument, match=says) as refused:
        check_request(StartTaskRequest(name=TASK, epoch=1, version=VERSION, options=options))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (StartTaskRequest(name="t", epoch=1, version=VERSION), "name"),
        (StartTaskRequest(name=TASK, version=VERSION), "epoch"),
        (StartTaskRequest(name=TASK, epoch=1, version="projects/default/models/m@latest"), "version"),
        (StartTaskRequest(name=TASK, epoch=1, version="projects/other/models/m/versions/1"), "version"),
        (StartTaskRequest(name=TASK, epoch=1, version=VERSION, job="projects/other/jobs/j"), "job"),
    ],
)
def test_a_wrong_name_is_refused_by_its_field(request_: StartTaskRequest, field: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        check_request(request_)
    assert refused.value.field == field


def test_only_a_version_with_program_and_weights_can_be_optimized() -> None:
    program = Program(module="m:P")
    weights = File(path="model.safetensors", role=FileRole.FILE_ROLE_WEIGHTS)
    assert weights_of(Version(program=program, files=[weights])) == weights
    with pytest.raises(InvalidArgument, match="names no program"):
        weights_of(Version(name=VERSION, files=[weights]))
    with pytest.raises(InvalidArgument, match="no WEIGHTS file"):
        weights_of(Version(name=VERSION, program=program, files=[File(role=FileRole.FILE_ROLE_ONNX)]))


def test_every_attempt_of_a_job_is_the_same_work_and_other_options_are_not() -> None:
    first = StartTaskRequest(name=TASK, epoch=1, version=VERSION, job="projects/default/jobs/j")
    second = StartTaskRequest(name=f"{TASK}-2", epoch=2, version=VERSION, job="projects/default/jobs/j")
    other = StartTaskRequest(
        name=TASK,
        epoch=1,
        version=VERSION,
        job="projects/default/jobs/j",
        options=OptimizationOptions(objective=Objective.OBJECTIVE_SIZE),
    )
    assert work_key(first) == work_key(second) != work_key(other)
