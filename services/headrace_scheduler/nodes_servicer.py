"""How nodes attach, on the wire: each message is an event, each report gets one notice."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.duration_pb2 import Duration

from headrace.errors import InvalidArgument, ResourceExhausted
from headrace.rpc.layers import Call, current_call
from headrace.scheduler.v1 import nodes_pb2, nodes_pb2_grpc
from headrace_scheduler.core.events import NodeAttached, NodeDetached
from headrace_scheduler.core.nodes import Node
from headrace_scheduler.engine import Engine
from headrace_scheduler.wire import read_hello, read_report


class NodesServicer(nodes_pb2_grpc.NodesServicer):
    """Holds one call for each attached node, at most `max_nodes`."""

    def __init__(self, engine: Engine, *, lease_s: float, max_nodes: int) -> None:
        self._engine = engine
        self._lease = Duration(nanos=round(lease_s % 1 * 1e9), seconds=int(lease_s))
        self._max_nodes = max_nodes
        self._calls: dict[str, Call] = {}
        self._lock = threading.Lock()

    def Attach(
        self, request_iterator: Iterator[nodes_pb2.AttachRequest], context: grpc.ServicerContext
    ) -> Iterator[nodes_pb2.AttachResponse]:
        """Keep a node's lease."""
        hello = next(request_iterator, None)
        if hello is None or not hello.HasField("hello"):
            raise InvalidArgument("the first message must be a hello", field="hello")
        node, call = read_hello(hello.hello), current_call()
        with self._attached(node, call):
            yield nodes_pb2.AttachResponse(welcome=nodes_pb2.Welcome(lease=self._lease))
            for request in request_iterator:
                if call.ended:
                    return
                forget = self._engine.submit(read_report(node, request.report))
                yield nodes_pb2.AttachResponse(notice=nodes_pb2.Notice(forget=forget))

    @contextmanager
    def _attached(self, node: Node, call: Call) -> Iterator[None]:
        """Make this call the one of its node; the one before it, if any, is ended."""
        former = self._take_over(node.name, call)
        try:
            if former is not None:
                former.end()
                former.context.cancel()
            self._engine.submit(NodeAttached(node))
            yield
        finally:
            if self._give_up(node.name, call):
                self._engine.submit(NodeDetached(node.name, node.incarnation))

    def _take_over(self, name: str, call: Call) -> Call | None:
        with self._lock:
            if name not in self._calls and len(self._calls) >= self._max_nodes:
                raise ResourceExhausted(
                    f"{self._max_nodes} nodes are attached; raise HEADRACE_SCHEDULER_MAX_NODES to take more",
                    retry_after_s=5.0,
                )
            former = self._calls.get(name)
            self._calls[name] = call
            return former

    def _give_up(self, name: str, call: Call) -> bool:
        """Return whether the node has no other call now."""
        with self._lock:
            if self._calls.get(name) is not call:
                return False
            del self._calls[name]
            return True
