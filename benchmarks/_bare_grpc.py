"""gRPC alone, for `python -m benchmarks.parameters transfer`: the same bytes in streams of 1 MiB messages, with a handler that does nothing.

What it does not reach, no parameter service over gRPC from Python can reach. Up to one message the client makes the call as `headrace.parameters.streams` does.
"""

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import grpc
import grpc.experimental

from headrace.parameters.malloc import keep_freed_memory

_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started
_MESSAGE = 1 << 20
_THREADS = 8


class BareGrpc:
    """A stream to a process that takes bytes and gives bytes, and does nothing else."""

    def __init__(self, channel: grpc.Channel, size: int) -> None:
        self._data = bytes(size)
        self._give: Any = channel.unary_stream("/bare.Bare/Give")
        self._take_one: Any = channel.unary_stream("/bare.Bare/Take")
        self._take: Any = channel.stream_unary("/bare.Bare/Take")

    def push(self) -> None:
        """Send all bytes; return when the other end has them."""
        if len(self._data) <= _MESSAGE:
            list(self._take_one(self._data))
        else:
            self._take.future(_messages(self._data)).result()

    def pull(self) -> None:
        """Ask for as many bytes; return when they are here."""
        for _ in self._give(b""):
            pass


@contextmanager
def bare_grpc(size: int) -> Iterator[BareGrpc]:
    """Start the process at the other end, and stop it."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs, size), daemon=True)
    process.start()
    options = [*_sizes(), (grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]
    with grpc.insecure_channel(f"127.0.0.1:{ours.recv()}", options=options) as channel:
        yield BareGrpc(channel, size)
    ours.send("stop")
    process.join()


def _serve(pipe: Connection, size: int) -> None:
    keep_freed_memory()
    data = bytes(size)

    def take(requests: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        for _request in requests:
            pass
        return b""

    def give(_request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
        return _messages(data)

    handlers: dict[str, Any] = {
        "Take": grpc.stream_unary_rpc_method_handler(take),
        "Give": grpc.unary_stream_rpc_method_handler(give),
    }
    server = grpc.server(ThreadPoolExecutor(_THREADS), options=_sizes())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Bare", handlers),))
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    pipe.recv()
    server.stop(0).wait()


def _messages(data: bytes) -> Iterator[bytes]:
    return (data[start : start + _MESSAGE] for start in range(0, len(data), _MESSAGE))


def _sizes() -> list[tuple[str, int]]:
    return [("grpc.max_receive_message_length", 2 * _MESSAGE)]
