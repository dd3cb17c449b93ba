"""Steps that are recorded while a rank trains."""

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headrace.errors import FailedPrecondition, InvalidArgument
from headrace.rpc.channel import open_channel
from headrace.tasks.v1.inspection_pb2 import CaptureProfileRequest
from headrace.tasks.v1.inspection_pb2_grpc import InspectionStub
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace.types.v1.task_pb2 import StopTaskRequest, TaskState
from tests.services.training.training_world import SGD, World, final, until_step


@pytest.fixture
def inspection(running: World) -> Iterator[InspectionStub]:
    with open_channel(running.workers[0]) as channel:
        yield InspectionStub(channel)


@pytest.fixture
def slow(running: World) -> Iterator[StartTaskRequest]:
    """A rank that trains until it is stopped, and is well then."""
    (request,) = running.all_reduce("training_programs:Slow", SGD, steps=100_000, world_size=1)
    workers = running.workers_stub(0)
    workers.StartTask(request)
    until_step(workers, request.name, 1)
    yield request
    workers.StopTask(StopTaskRequest(name=request.name))
    assert final(workers, request.name).state == TaskState.TASK_STATE_STOPPED


def capture(inspection: InspectionStub, name: str, steps: int) -> list[dict[str, Any]]:
    parts = inspection.CaptureProfile(CaptureProfileRequest(name=name, steps=steps), timeout=100)
    events: list[dict[str, Any]] = json.loads(gzip.decompress(b"".join(part.data for part in parts)))[
        "traceEvents"
    ]
    return events


def test_a_trace_has_so_many_steps_and_training_goes_on(
    running: World, inspection: InspectionStub, slow: StartTaskRequest
) -> None:
    for steps in (3, 1):
        events = capture(inspection, slow.name, steps)
        backward = [event for event in events if event.get("name") == "aten::linear"]
        assert len(backward) == steps, "the model has one linear layer, and runs once in a step"
    until_step(running.workers_stub(0), slow.name, 30)


def test_of_two_who_ask_at_once_one_is_told_to_come_again(
    inspection: InspectionStub, slow: StartTaskRequest
) -> None:
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(capture, inspection, slow.name, 40) for _ in range(2)]
        refused = [each for each in asked if each.exception()]
        recorded = [each for each in asked if not each.exception()]
    assert [type(each.exception()) for each in refused] == [FailedPrecondition]
    assert "recorded for somebody else" in str(refused[0].exception())
    assert recorded[0].result()


def test_a_rank_that_ends_before_its_steps_are_recorded_says_so(
    running: World, inspection: InspectionStub, slow: StartTaskRequest
) -> None:
    parts = inspection.CaptureProfile(CaptureProfileRequest(name=slow.name, steps=100), timeout=60)
    running.workers_stub(0).StopTask(StopTaskRequest(name=slow.name))
    with pytest.raises(
        FailedPrecondition, match=r"ended before 100 more steps were done|only a task that runs"
    ):
        list(parts)


def test_more_steps_than_a_trace_should_have_are_refused(
    inspection: InspectionStub, slow: StartTaskRequest
) -> None:
    with pytest.raises(InvalidArgument, match="steps is 101; at most 100"):
        capture(inspection, slow.name, 101)
