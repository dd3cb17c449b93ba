"""How fast does one `grpc.server` answer, compared with one `grpc.aio.server`? Decision 0002 quotes it.

The server is a process of its own on loopback. Streams are read by `STREAMS` callers at a time, all in this process.
"""

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import grpc

from benchmarks.harness import Case, main

SIZES_KIB = (4, 64, 1024)
STREAM_BYTES = 16 << 20
CALLS = 500
STREAMS = 4
_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started


def messages(size: int) -> Iterator[bytes]:
    """Yield `STREAM_BYTES`, in messages of `size` bytes."""
    message = bytes(size)
    for _ in range(STREAM_BYTES // size):
        yield message


def handlers(echo: Callable[..., Any], stream: Callable[..., Any]) -> list[grpc.GenericRpcHandler]:
    """Register the two rpcs of the benchmark."""
    rpcs: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    return [grpc.method_handlers_generic_handler("bench.Bench", rpcs)]


def serve_threads(pipe: Connection) -> None:
    """Serve with threads until this process is ended."""
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers(
        handlers(lambda request, _: request, lambda request, _: messages(int(request)))
    )
    pipe.send(server.add_insecure_port("127.0.0.1:0"))
    server.start()
    server.wait_for_termination()


async def _echo(request: bytes, _: object) -> bytes:
    return request


async def _stream(request: bytes, _: object) -> AsyncIterator[bytes]:
    for message in messages(int(request)):
        yield message


def serve_aio(pipe: Connection) -> None:
    """Serve with asyncio until this process is ended."""

    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(handlers(_echo, _stream))
        pipe.send(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        await server.wait_for_termination()

    asyncio.run(run())


@contextmanager
def channel_to(serve: Callable[[Connection], None]) -> Iterator[grpc.Channel]:
    """Start a server process and yield a channel to it."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    with grpc.insecure_channel(f"127.0.0.1:{ours.recv()}") as channel:
        yield channel
    process.terminate()
    process.join()


def calls_per_second(channel: grpc.Channel) -> float:
    """Make calls one after the other."""
    echo: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/bench.Bench/Echo")
    started = time.perf_counter()
    for _ in range(CALLS):
        echo(b"", timeout=60)
    return CALLS / (time.perf_counter() - started)


def mib_per_second(channel: grpc.Channel, size: int) -> float:
    """Read `STREAMS` streams at a time, each to its end."""
    stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/bench.Bench/Stream")

    def read(_: int) -> int:
        return sum(len(message) for message in stream(str(size).encode(), timeout=60))

    started = time.perf_counter()
    with ThreadPoolExecutor(STREAMS) as callers:
        received = sum(callers.map(read, range(STREAMS)))
    return received / 2**20 / (time.perf_counter() - started)


@contextmanager
def cases() -> Iterator[Sequence[Case]]:
    """Yield the same measures for both kinds, threads first: they are what is compared with."""
    with ExitStack() as stack:
        made: list[Case] = []
        for kind, serve in (("threads", serve_threads), ("asyncio", serve_aio)):
            channel = stack.enter_context(channel_to(serve))
            measures = {"calls one by one": ("calls/s", partial(calls_per_second, channel))}
            for size in SIZES_KIB:
                measures[f"streams of {size} KiB"] = ("MiB/s", partial(mib_per_second, channel, size << 10))
            for name, (unit, measure) in measures.items():
                reference = "" if kind == "threads" else f"{name}, threads"
                made.append(Case(f"{name}, {kind}", unit, measure, reference=reference))
        yield made


if __name__ == "__main__":
    main("server_kinds", {"kinds": cases})
