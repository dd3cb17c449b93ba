"""What a task printed, through the rpc that shows it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.errors import InvalidArgument, NotFound
from headrace.tasks.v1.inspection_pb2 import ReadLogRequest, ReadLogResponse
from headrace.tasks.v1.inspection_pb2_grpc import InspectionStub
from tests.services.tasks.task_node import LOG_BYTES, PROJECT, PYTHON_PATH, TaskNode, task_node


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TaskNode]:
    monkeypatch.setenv("PYTHONPATH", PYTHON_PATH)
    with task_node(tmp_path) as started:
        yield started


@pytest.fixture
def inspection(node: TaskNode) -> InspectionStub:
    return node.inspection


def text(responses: Iterator[ReadLogResponse]) -> str:
    return b"".join(response.data for response in responses).decode()


def test_standard_output_and_error_are_kept_after_the_task_is_forgotten(
    node: TaskNode, inspection: InspectionStub
) -> None:
    name = node.start("die")
    node.end(name)
    node.tasks.forget([name])
    assert text(inspection.ReadLog(ReadLogRequest(name=name))) == "about to run out of memory\n"


def test_a_log_is_followed_until_the_task_ends(node: TaskNode, inspection: InspectionStub) -> None:
    name = node.start("print_and_wait")
    responses = inspection.ReadLog(ReadLogRequest(name=name, follow=True), timeout=30)
    assert next(responses).data == b"began\n"
    node.tasks.stop(name)
    last = list(responses)
    assert text(iter(last)) == "ended\n"
    assert last[0].offset == len("began\n")


def test_a_program_that_prints_much_keeps_its_end_and_disturbs_no_other_one(
    node: TaskNode, inspection: InspectionStub, tmp_path: Path
) -> None:
    quiet = node.start("print_and_wait", name="quiet")
    loud = node.start("print", name="loud", lines=2_000_000)
    node.end(loud)
    responses = list(inspection.ReadLog(ReadLogRequest(name=loud)))
    lines = text(iter(responses)).splitlines()
    assert lines[-2:] == ["line 001999999 of many", "stdin holds 0 characters"]
    assert responses[0].offset + sum(len(each.data) for each in responses) == 2_000_000 * 23 + 25
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.log")) <= LOG_BYTES + 100
    assert text(inspection.ReadLog(ReadLogRequest(name=quiet))) == "began\n"


def test_a_log_is_read_from_an_offset_or_by_its_last_lines(
    node: TaskNode, inspection: InspectionStub
) -> None:
    name = node.start("print", lines=100)
    node.end(name)
    assert text(inspection.ReadLog(ReadLogRequest(name=name, offset=99 * 23))).startswith(
        "line 000000099 of many\n"
    )
    assert text(inspection.ReadLog(ReadLogRequest(name=name, tail_lines=2))) == (
        "line 000000099 of many\nstdin holds 0 characters\n"
    )


def test_each_attempt_has_its_own_log(node: TaskNode, inspection: InspectionStub) -> None:
    for epoch, lines in ((1, 3), (2, 5)):
        node.end(node.start("print", epoch=epoch, lines=lines))
    asked = [ReadLogRequest(name=f"{PROJECT}/t", epoch=epoch) for epoch in (0, 1)]
    assert [text(inspection.ReadLog(request)).count("\n") for request in asked] == [6, 4]


def test_what_cannot_be_shown_is_refused(inspection: InspectionStub) -> None:
    with pytest.raises(NotFound, match="keeps nothing of projects/default/tasks/nobody"):
        text(inspection.ReadLog(ReadLogRequest(name=f"{PROJECT}/nobody")))
    with pytest.raises(InvalidArgument):
        text(inspection.ReadLog(ReadLogRequest(name="nobody")))
