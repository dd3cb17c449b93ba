"""The agent of a node against a scheduler that the test plays: its lease, its reports, and what it does when nobody answers."""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import grpc
import pytest

from headrace.errors import NotFound
from headrace.node import Agent
from headrace.node.conversation import QUICKEST_REPORT_S
from headrace.rpc.layers import current_call
from headrace.rpc.server import Server
from headrace.scheduler.v1 import nodes_pb2, nodes_pb2_grpc
from headrace.testing import free_port, serve

LEASE_S = 60.0  # nobody loses it, however busy the machine is
SHORT_LEASE_S = 2.4
HELLO = nodes_pb2.Hello(
    node="nodes/a", incarnation="i", kind=nodes_pb2.NODE_KIND_TRAINING, address="a:1", slots=1
)
WAIT_S = 10.0


class PlayedScheduler(nodes_pb2_grpc.NodesServicer):
    """Records what nodes say; answers every report unless it is frozen."""

    def __init__(self, lease_s: float = LEASE_S) -> None:
        self.lease_s = lease_s
        self.hellos: queue.Queue[nodes_pb2.Hello] = queue.Queue()
        self.reports: queue.Queue[nodes_pb2.Report] = queue.Queue()
        self.forget: list[str] = []
        self.answering = threading.Event()
        self.answering.set()
        self.refuse_with: NotFound | None = None

    def Attach(
        self, request_iterator: Iterator[nodes_pb2.AttachRequest], context: grpc.ServicerContext
    ) -> Iterator[nodes_pb2.AttachResponse]:
        self.hellos.put(next(request_iterator).hello)
        if self.refuse_with:
            raise self.refuse_with
        welcome = nodes_pb2.AttachResponse()
        welcome.welcome.lease.FromMilliseconds(int(self.lease_s * 1000))
        yield welcome
        for request in request_iterator:
            self.reports.put(request.report)
            call = current_call()
            call.on_end(self.answering.set)
            self.answering.wait(WAIT_S)
            yield nodes_pb2.AttachResponse(notice=nodes_pb2.Notice(forget=self.forget))


class Recorder:
    """The node's side: what it reports and what it was told to forget."""

    def __init__(self) -> None:
        self.report = nodes_pb2.Report()
        self.forgotten: queue.Queue[Sequence[str]] = queue.Queue()

    def make(self) -> nodes_pb2.Report:
        copy = nodes_pb2.Report()
        copy.CopyFrom(self.report)
        return copy


@contextmanager
def attached(address: str, node: Recorder) -> Iterator[Agent]:
    with Agent(address, HELLO, report=node.make, forget=node.forgotten.put) as agent:
        yield agent


@pytest.fixture
def scheduler() -> PlayedScheduler:
    return PlayedScheduler()


@pytest.fixture
def address(scheduler: PlayedScheduler) -> Iterator[str]:
    with serve(lambda server: nodes_pb2_grpc.add_NodesServicer_to_server(scheduler, server)) as channel:
        yield channel.address


def test_a_node_says_hello_then_reports_three_times_a_lease(scheduler: PlayedScheduler, address: str) -> None:
    scheduler.lease_s = SHORT_LEASE_S
    with attached(address, Recorder()) as agent:
        assert scheduler.hellos.get(timeout=WAIT_S) == HELLO
        assert agent.attached.wait(WAIT_S)
        for _ in range(4):
            scheduler.reports.get(timeout=SHORT_LEASE_S)


def test_a_change_is_reported_at_once_and_many_make_one_report(
    scheduler: PlayedScheduler, address: str
) -> None:
    node = Recorder()
    with attached(address, node) as agent:
        scheduler.reports.get(timeout=WAIT_S)
        node.report.models.add(model="digits")
        began = time.monotonic()
        for _ in range(1000):
            agent.changed()
        # Long before the next one is due.
        assert scheduler.reports.get(timeout=WAIT_S).models[0].model == "digits"
        assert scheduler.reports.qsize() <= 1 + (time.monotonic() - began) / QUICKEST_REPORT_S


def test_what_the_scheduler_has_recorded_may_be_forgotten(scheduler: PlayedScheduler, address: str) -> None:
    node = Recorder()
    scheduler.forget = ["projects/default/tasks/a"]
    with attached(address, node):
        assert list(node.forgotten.get(timeout=WAIT_S)) == ["projects/default/tasks/a"]


def test_a_node_that_leaves_says_so_and_knows_it_was_heard(scheduler: PlayedScheduler, address: str) -> None:
    with attached(address, Recorder()) as agent:
        assert agent.attached.wait(WAIT_S)
        assert agent.leaving(WAIT_S)
        reports = []
        while not scheduler.reports.empty():
            reports.append(scheduler.reports.get())
        assert reports[-1].leaving


def test_a_frozen_scheduler_is_noticed_within_a_lease_and_called_again(
    scheduler: PlayedScheduler, address: str
) -> None:
    scheduler.lease_s = SHORT_LEASE_S
    with attached(address, Recorder()) as agent:
        assert agent.attached.wait(WAIT_S)
        scheduler.hellos.get(timeout=WAIT_S)
        scheduler.answering.clear()
        assert scheduler.hellos.get(timeout=WAIT_S) == HELLO
        scheduler.answering.set()
        assert agent.attached.wait(WAIT_S)


def test_a_scheduler_that_comes_later_or_again_finds_its_node() -> None:
    address = f"127.0.0.1:{free_port()}"
    with attached(address, Recorder()):
        for _ in range(2):
            scheduler = PlayedScheduler()
            server = Server(address)
            nodes_pb2_grpc.add_NodesServicer_to_server(scheduler, server)
            server.start()
            assert scheduler.hellos.get(timeout=WAIT_S) == HELLO
            scheduler.reports.get(timeout=WAIT_S)
            server.stop(0).wait()


def test_a_refused_node_keeps_asking(
    scheduler: PlayedScheduler, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scheduler.refuse_with = NotFound("there is no pools/gpu; create it")
    with attached(address, Recorder()) as agent:
        for _ in range(3):
            scheduler.hellos.get(timeout=WAIT_S)
        assert not agent.attached.is_set()
        scheduler.refuse_with = None
        assert agent.attached.wait(WAIT_S)
    assert capsys.readouterr().out.count("node_detached") <= 1


def test_a_node_without_a_scheduler_is_alone() -> None:
    with attached("", Recorder()) as agent:
        agent.changed()
        assert not agent.leaving(0.1)
