"""The service as a node of a scheduler."""

import signal
from collections.abc import Iterator
from queue import Queue

import grpc

from headrace.scheduler.v1 import nodes_pb2, nodes_pb2_grpc
from headrace.testing import serve
from tests.services.parameters.parameter_process import service_process


class OneNode(nodes_pb2_grpc.NodesServicer):
    """A scheduler that only listens."""

    def __init__(self) -> None:
        self.heard: Queue[nodes_pb2.AttachRequest] = Queue()

    def Attach(
        self, request_iterator: Iterator[nodes_pb2.AttachRequest], context: grpc.ServicerContext
    ) -> Iterator[nodes_pb2.AttachResponse]:
        self.heard.put(next(request_iterator))
        welcome = nodes_pb2.AttachResponse()
        welcome.welcome.lease.FromSeconds(30)
        yield welcome
        for request in request_iterator:
            self.heard.put(request)
            yield nodes_pb2.AttachResponse(notice=nodes_pb2.Notice())


def test_it_attaches_with_its_slots_and_says_goodbye() -> None:
    scheduler = OneNode()
    with (
        serve(lambda server: nodes_pb2_grpc.add_NodesServicer_to_server(scheduler, server)) as channel,
        service_process(
            "parameters", SCHEDULER_ADDRESS=channel.address, NODE_ID="shelf", POOL="big", SLOTS="3"
        ) as (address, process),
    ):
        hello = scheduler.heard.get(timeout=20).hello
        first = scheduler.heard.get(timeout=20).report
        process.send_signal(signal.SIGTERM)
        last = scheduler.heard.get(timeout=20).report
        process.wait(60)

    assert (hello.node, hello.pool, hello.slots, hello.address) == ("nodes/shelf", "pools/big", 3, address)
    assert hello.kind == nodes_pb2.NODE_KIND_PARAMETERS
    assert not first.leaving
    assert last.leaving
