"""What a front end costs: `python -m benchmarks.front_end [echo] [--json]`.

An echo of a small tensor, with all layers of a server, through grpcio and through turbo: by handlers that answer at once in threads
(`threads`), that never block (`at once`), and whose answers another thread settles (`later`). The server is a process of its own; callers share one
connection from this one. Processor time is the server's, all threads together, user and system.
"""

import multiprocessing
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np
import psutil

from benchmarks._load import Closed
from benchmarks._serving import METHOD, Served
from benchmarks.harness import Case, main
from headrace.inference.oip.descriptor_pool import POOL
from headrace.inference.oip.v2 import inference_pb2 as pb
from headrace.inference.oip.v2.inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from headrace.rpc.authorization import Role, Rule
from headrace.rpc.deferred import Answer, Deferred, answers_later
from headrace.rpc.server import Server

CALLERS = (1, 64)
GOAL_64_US = 45.0  # of processor time for a call, all in
GOAL_P50_MS = 0.27
_INPUTS = {"x": np.zeros((1, 64), np.float32)}
_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started


class Threads(GRPCInferenceServiceServicer):
    """Answers in the thread of the call."""

    def ModelInfer(
        self,
        request: pb.ModelInferRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - a servicer's interface
    ) -> pb.ModelInferResponse:
        """Return a response with the request's contents."""
        return _echo(request)


class AtOnce(GRPCInferenceServiceServicer):
    """Answers where it is called."""

    @answers_later
    def ModelInfer(
        self,
        request: pb.ModelInferRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - a servicer's interface
    ) -> pb.ModelInferResponse:
        """Return a response with the request's contents."""
        return _echo(request)


class Later(GRPCInferenceServiceServicer):
    """Has another thread settle all that waits."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[tuple[Deferred[pb.ModelInferRequest], pb.ModelInferRequest]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._settle, daemon=True).start()

    @answers_later
    def ModelInfer(  # type: ignore[override]  # an answer that comes later is one
        self,
        request: pb.ModelInferRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - a servicer's interface
    ) -> Answer[pb.ModelInferResponse]:
        """Return a response with the request's contents."""
        deferred = Deferred[pb.ModelInferRequest]()
        self._waiting.put((deferred, request))
        return deferred.map(_echo)

    def _settle(self) -> None:
        while True:
            deferred, request = self._waiting.get()
            deferred.settle(request)


def _echo(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
    return pb.ModelInferResponse(
        model_name=request.model_name, model_version="1", raw_output_contents=request.raw_input_contents
    )


SERVICERS: dict[str, Callable[[], Any]] = {
    "threads": Threads,
    "at once": AtOnce,
    "later": Later,
}


def _callers(stack: ExitStack, servicer: str, *, turbo: bool, callers: int) -> Closed:
    """Start a server process, and callers."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs, servicer, turbo), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(ours.send, None)
    return Closed(Served(ours.recv(), psutil.Process(process.pid)), _INPUTS, callers)


def _serve(pipe: Connection, servicer: str, turbo: bool) -> None:
    server = Server(
        "127.0.0.1:0", turbo=turbo, max_concurrent_rpcs=256, rules={METHOD: Rule(Role.VIEWER)}, pools=[POOL]
    )
    add_GRPCInferenceServiceServicer_to_server(SERVICERS[servicer](), server)
    pipe.send(server.start())
    pipe.recv()
    server.stop(0).wait()


@contextmanager
def echo() -> Iterator[list[Case]]:
    """Compare the front ends."""
    with ExitStack() as stack:
        cases: list[Case] = []
        for callers in CALLERS:
            for servicer, turbo in (("threads", False), *((servicer, True) for servicer in SERVICERS)):
                closed = _callers(stack, servicer, turbo=turbo, callers=callers)
                name = f"{'turbo' if turbo else 'grpcio'}, {servicer}, {callers} callers"
                cases += _cases(closed, name, turbo=turbo, callers=callers)
        yield cases


def _cases(closed: Closed, name: str, *, turbo: bool, callers: int) -> list[Case]:
    cpu: dict[str, Any] = {"goal": GOAL_64_US} if turbo and callers > 1 else {}
    p50: dict[str, Any] = {"goal": GOAL_P50_MS} if turbo and callers == 1 else {}
    return [
        Case(f"{name}: rate", "calls/s", closed.rate),
        Case(f"{name}: processor time", "us", closed.cpu_us, **cpu),
        Case(f"{name}: p50", "ms", closed.p50_ms, **p50),
    ]


if __name__ == "__main__":
    main("front_end", {"echo": echo})
