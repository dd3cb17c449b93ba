"""A link of limited bandwidth: a process that forwards bytes, so many per second each way."""

import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection

from headrace.rpc.addresses import split_address

_SPAWN = multiprocessing.get_context("spawn")  # never fork after gRPC has started
_PIECE = 1 << 16  # forwarded at a time: half a millisecond at 1 Gbit/s
_PATIENCE_S = 0.001  # shorter waits are collected: a sleep takes longer than it is told


@contextmanager
def slow_link(target: str, bits_per_s: float) -> Iterator[str]:
    """Forward to `target` for as long as the `with` lasts; yield the address to connect to."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs, target, bits_per_s), daemon=True)
    process.start()
    try:
        yield f"127.0.0.1:{ours.recv()}"
    finally:
        process.terminate()
        process.join()


def _serve(port: Connection, target: str, bits_per_s: float) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    port.send(listener.getsockname()[1])
    while True:
        inward, _ = listener.accept()
        outward = socket.create_connection(split_address(target))
        for source, sink in ((inward, outward), (outward, inward)):
            sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_forward, args=(source, sink, bits_per_s), daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, bits_per_s: float) -> None:
    free = time.monotonic()  # when the link has sent all that was given to it
    with suppress(OSError):
        while data := source.recv(_PIECE):
            free = max(free, time.monotonic()) + 8 * len(data) / bits_per_s
            wait_s = free - time.monotonic()
            if wait_s > _PATIENCE_S:
                time.sleep(wait_s)
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
