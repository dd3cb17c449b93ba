"""What a task printed, through the rpc that shows it."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.struct_pb2 import Struct

from headrace.errors import InvalidArgument, NotFound
from headrace.tasks.inspection import InspectionServicer
from headrace.tasks.process import Launcher
from headrace.tasks.records import Limits
from headrace.tasks.service import TaskService
from headrace.tasks.table import FINAL, TaskTable
from headrace.tasks.v1.inspection_pb2 import ReadLogRequest, ReadLogResponse
from headrace.tasks.v1.inspection_pb2_grpc import InspectionStub, add_InspectionServicer_to_server
from headrace.testing import serve

HERE = Path(__file__).parent
PROJECT = "projects/default/tasks"
LOG_BYTES = 256 << 10


class Node:
    """Tasks and what is kept of them, behind a real server."""

    def __init__(self, folder: Path) -> None:
        launch = Launcher(
            "task_program", folder, stop_grace_s=2, kill_grace_s=0.2, limits=Limits(log_bytes=LOG_BYTES)
        )
        self.records = launch.records
        self.tasks = TaskService(TaskTable(slots=2), launch, time.time)

    def start(self, do: str, *, name: str = "t", epoch: int = 1, **fields: float) -> str:
        request = Struct()
        request.update({"do": do, **fields})
        return self.tasks.start(f"{PROJECT}/{name}", epoch, request).name

    def end(self, name: str) -> None:
        *_, last = self.tasks.watch(name, 0, lambda: True)
        assert last.state in FINAL


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    started = Node(tmp_path)
    yield started
    started.tasks.close(0)


@pytest.fixture
def inspection(node: Node) -> Iterator[InspectionStub]:
    servicer = InspectionServicer(node.tasks, node.records)
    with serve(lambda server: add_InspectionServicer_to_server(servicer, server)) as channel:
        yield InspectionStub(channel)


def text(responses: Iterator[ReadLogResponse]) -> str:
    return b"".join(response.data for response in responses).decode()


def test_standard_output_and_error_are_kept_after_the_task_is_forgotten(
    node: Node, inspection: InspectionStub
) -> None:
    name = node.start("die")
    node.end(name)
    node.tasks.forget([name])
    assert text(inspection.ReadLog(ReadLogRequest(name=name))) == "about to run out of memory\n"


def test_a_log_is_followed_until_the_task_ends(node: Node, inspection: InspectionStub) -> None:
    name = node.start("print_and_wait")
    responses = inspection.ReadLog(ReadLogRequest(name=name, follow=True), timeout=30)
    assert next(responses).data == b"began\n"
    node.tasks.stop(name)
    last = list(responses)
    assert text(iter(last)) == "ended\n"
    assert last[0].offset == len("began\n")


def test_a_program_that_prints_much_keeps_its_end_and_disturbs_no_other_one(
    node: Node, inspection: InspectionStub, tmp_path: Path
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


def test_a_log_is_read_from_an_offset_or_by_its_last_lines(node: Node, inspection: InspectionStub) -> None:
    name = node.start("print", lines=100)
    node.end(name)
    assert text(inspection.ReadLog(ReadLogRequest(name=name, offset=99 * 23))).startswith(
        "line 000000099 of many\n"
    )
    assert text(inspection.ReadLog(ReadLogRequest(name=name, tail_lines=2))) == (
        "line 000000099 of many\nstdin holds 0 characters\n"
    )


def test_each_attempt_has_its_own_log(node: Node, inspection: InspectionStub) -> None:
    for epoch, lines in ((1, 3), (2, 5)):
        node.end(node.start("print", epoch=epoch, lines=lines))
    asked = [ReadLogRequest(name=f"{PROJECT}/t", epoch=epoch) for epoch in (0, 1)]
    assert [text(inspection.ReadLog(request)).count("\n") for request in asked] == [6, 4]


def test_what_cannot_be_shown_is_refused(inspection: InspectionStub) -> None:
    with pytest.raises(NotFound, match="keeps nothing of projects/default/tasks/nobody"):
        text(inspection.ReadLog(ReadLogRequest(name=f"{PROJECT}/nobody")))
    with pytest.raises(InvalidArgument):
        text(inspection.ReadLog(ReadLogRequest(name="nobody")))
