"""Pairs of parameter processes that hold one store: its primary and its replica."""

from contextlib import ExitStack

from headrace.parameters.client import ShardedStore
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.assignment_pb2 import (
    STORE_ROLE_PRIMARY,
    STORE_ROLE_REPLICA,
    Assignment,
)
from tests.services.parameters.parameter_server import (
    NAME,
    ParameterServer,
    create_request,
    parameter_server,
)

REPLICA = stores_pb2.DURABILITY_REPLICA
ASYNC = stores_pb2.CONSISTENCY_ASYNC


def primary(term: int, replica: str = "") -> Assignment:
    return Assignment(term=term, role=STORE_ROLE_PRIMARY, replica=replica)


def replica(term: int) -> Assignment:
    return Assignment(term=term, role=STORE_ROLE_REPLICA)


class Processes:
    """Parameter processes that come and go."""

    def __init__(self, stack: ExitStack, *, share: bool) -> None:
        self._stack, self._share = stack, share

    def start(self) -> ParameterServer:
        return self._stack.enter_context(parameter_server(shared_memory=self._share))

    def client(self, server: ParameterServer, worker: int = 0, timeout_s: float = 10.0) -> ShardedStore:
        store = ShardedStore(
            [server.channel], NAME, epoch=1, worker=worker, timeout_s=timeout_s, shared_memory=self._share
        )
        return server.clients.enter_context(store)

    def pair(self, **request: object) -> tuple[ParameterServer, ParameterServer]:
        """Start two that hold one store, which waits for its first values."""
        first, second = self.start(), self.start()
        make = {"durability": REPLICA, "learning_rate": 1.0, "consistency": ASYNC, **request}
        second.stores.create(create_request(**make, assignment=replica(1)))  # type: ignore[arg-type]  # named by each test
        first.stores.create(create_request(**make, assignment=primary(1, second.channel.address)))  # type: ignore[arg-type]  # likewise
        return first, second


def cut_off(server: ParameterServer) -> None:
    """Let nobody reach a process any more."""
    server.channel.server.stop(0).wait()
