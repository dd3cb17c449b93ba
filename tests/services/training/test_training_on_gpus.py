"""Ranks on GPUs end where a process on the CPU does; and what a node without one says.

GPUs add up in another order, and a difference of rounding grows with the steps: 50 steps of SGD are compared to 1e-4.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from headrace.program.loading import load_attribute
from headrace.training.v1.workers_pb2 import Device, Precision, StartTaskRequest
from headrace.types.v1.program_pb2 import Program as ProgramMessage
from headrace.types.v1.task_pb2 import Task, TaskState
from tests.services.training.test_training_matches_torch import (
    BATCH,
    CASES,
    SEED,
    Case,
    all_reduce,
    parameter_server,
    single_process,
)
from tests.services.training.training_world import World

PROGRAM, CASE = "headrace_examples.tabular:BreastCancer", CASES["sgd"]
GPUS = torch.cuda.device_count()
Strategy = Callable[..., list[StartTaskRequest]]


def fully_sharded(
    running: World, case: Case, asked: ProgramMessage, **changes: Any
) -> list[StartTaskRequest]:
    return all_reduce(running, case, asked, fully_sharded=True, **changes)


def on_gpus(least: int, most: int = 1024) -> Callable[[Any], Any]:
    """Run a test where there are so many CUDA devices, and say so elsewhere."""
    wanted = f"{least} or more" if most > least else f"just {least}"
    elsewhere = pytest.mark.skipif(
        not least <= GPUS <= most, reason=f"needs {wanted} CUDA devices; this machine has {GPUS}"
    )
    return lambda test: pytest.mark.gpu(elsewhere(test))


def run(running: World, strategy: Strategy, name: str, **changes: Any) -> list[Task]:
    requests = strategy(
        running,
        CASE,
        ProgramMessage(module=PROGRAM),
        batch_size=BATCH,
        seed=SEED,
        model=f"projects/default/models/{name}",
        device=Device.DEVICE_CUDA,
        **changes,
    )
    return running.run(*requests)


def assert_equals_the_cpu(running: World, first: Task, tolerance: float) -> None:
    assert first.state == TaskState.TASK_STATE_SUCCEEDED, first.failure
    assert first.result.metrics["peak_device_bytes"] > 0
    trained = running.weights(running.registry.get_version(first.result.version))
    for key, value in single_process(load_attribute(PROGRAM, {}), CASE, 1).items():
        np.testing.assert_allclose(trained[key], value, rtol=0, atol=tolerance, err_msg=key)


@on_gpus(1)
@pytest.mark.parametrize("strategy", [parameter_server, all_reduce])
def test_two_ranks_on_whatever_gpus_there_are_equal_the_cpu(running: World, strategy: Strategy) -> None:
    """On one GPU all-reduce goes by way of the host, on two or more by NCCL."""
    first, _ = run(running, strategy, f"gpu-{strategy.__name__.replace('_', '-')}")
    assert_equals_the_cpu(running, first, 1e-4)


@on_gpus(2)
def test_two_ranks_with_a_part_and_a_gpu_each_equal_the_cpu(running: World) -> None:
    first, _ = run(running, fully_sharded, "gpu-sharded")
    assert_equals_the_cpu(running, first, 1e-4)


@on_gpus(1)
def test_bfloat16_on_a_gpu_stays_near_the_cpu(running: World) -> None:
    first, _ = run(running, parameter_server, "gpu-bf16", precision=Precision.PRECISION_BF16)
    assert_equals_the_cpu(running, first, 0.05)


@on_gpus(1, most=1)
def test_two_ranks_with_a_part_each_are_refused_on_one_gpu(running: World) -> None:
    for task in run(running, fully_sharded, "gpu-too-few"):
        assert task.failure.reason == "FAILED_PRECONDITION"
        assert "have 1 GPUs" in task.failure.message


@pytest.mark.skipif(GPUS > 0, reason=f"this machine has {GPUS} CUDA devices")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_loaded(running: World) -> None:
    request = running.request("training_programs:No", "projects/default/stores/none", steps=1)
    request.options.device = Device.DEVICE_CUDA

    (task,) = running.run(request)

    assert task.state == TaskState.TASK_STATE_FAILED
    assert task.failure.reason == "FAILED_PRECONDITION"
    assert "device is cuda, and this node has none: its torch" in task.failure.message
    assert "choose a pool" in task.failure.message
