"""How a service and the subprocess of a task talk: frames of a 4-byte big-endian length and as many bytes, over a pipe.

control pipe (the subprocess's stdin)   request, context (JSON), then STOP, PROFILE or TELL; its end means that the service is gone
event pipe                              `headrace.types.v1.Task` with only the fields that changed
"""

import struct
from typing import IO

STOP = b"stop"
PROFILE = b"profile "  # followed by an order, see `profiles`
TELL = b"tell "  # followed by what tasks of this service understand
MAX_FRAME_BYTES = 64 << 20  # as the largest gRPC message a service takes by default
_LENGTH = struct.Struct(">I")


class BrokenFrameError(Exception):
    """The pipe ended inside a frame, or what came is no frame."""


def write_frame(pipe: IO[bytes], body: bytes) -> None:
    """Send `body` and flush.

    Raises:
        OSError: Nobody reads the pipe any more.
    """
    pipe.write(_LENGTH.pack(len(body)) + body)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """Wait for a frame and return its body; None when the pipe ended.

    Raises:
        BrokenFrameError: It ended inside a frame, or the length is larger than any frame.
    """
    head = pipe.read(_LENGTH.size)
    if not head:
        return None
    if len(head) < _LENGTH.size:
        raise BrokenFrameError("the pipe ended inside a length")
    (length,) = _LENGTH.unpack(head)
    if length > MAX_FRAME_BYTES:
        raise BrokenFrameError(f"a frame of {length} bytes exceeds {MAX_FRAME_BYTES}")
    body = pipe.read(length)
    if len(body) < length:
        raise BrokenFrameError("the pipe ended inside a frame")
    return body
