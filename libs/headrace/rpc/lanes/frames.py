"""Frames on a stream socket: their length, then their bytes."""

import socket
import struct

_LENGTH = struct.Struct("!I")
_MOST_AT_ONCE = 1 << 16
MAX_FRAME_BYTES = 1 << 20  # calls that say where values lie take a few hundred


class BadFrame(Exception):
    """The peer does not speak this protocol."""


def send(connected: socket.socket, frame: bytes) -> None:
    """Send one frame; OSError if the peer is gone."""
    connected.sendall(_LENGTH.pack(len(frame)) + frame)


def receive(connected: socket.socket) -> bytes | None:
    """Wait for one frame, with which the peer ends for now; None if it hung up before its first byte.

    Raises:
        BadFrame: It is too long, or something follows it, or the peer hung up in it.
        OSError: The connection broke, or its timeout passed.
    """
    received = connected.recv(_MOST_AT_ONCE)
    if not received:
        return None
    while len(received) < _LENGTH.size or len(received) < _end(received):
        more = connected.recv(_MOST_AT_ONCE)
        if not more:
            raise BadFrame(f"the peer hung up after {len(received)} bytes of a frame")
        received += more
    if len(received) > _end(received):
        raise BadFrame("the peer sent a frame before the one before was answered")
    return received[_LENGTH.size :]


def _end(received: bytes) -> int:
    (length,) = _LENGTH.unpack_from(received)
    if length > MAX_FRAME_BYTES:
        raise BadFrame(f"a frame of {length} bytes was announced; {MAX_FRAME_BYTES} is the most")
    return _LENGTH.size + int(length)
