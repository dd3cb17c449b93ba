"""The headers of gRPC over HTTP/2, both ways (grpc.io, PROTOCOL-HTTP2)."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from google.rpc import status_pb2

from headrace.errors import HeadraceError, Internal, InvalidArgument, ResourceExhausted
from headrace.rpc.status import STATUS_METADATA, to_status
from headrace.rpc.turbo.limits import MOST_HEADER_BYTES

Header = tuple[bytes, bytes]
Metadata = tuple[tuple[str, str | bytes], ...]

CONTENT_TYPE = b"application/grpc"
IDENTITY = b"identity"
ENCODINGS = (IDENTITY, b"deflate", b"gzip")
_OVERHEAD_BYTES = 32  # of each header, by RFC 9113, 10.5.1
_GRPC = re.compile(CONTENT_TYPE + rb"([+;]|$)")  # gRPC-Web is another protocol
_UNITS_S = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_KEY = re.compile(r"[0-9a-z_.-]+")
_TEXT = re.compile(r"[\x20-\x7e]*")
_UNPRINTABLE = re.compile(rb"[^\x20-\x24\x26-\x7e]")
# What the protocol itself uses; everything else is the caller's metadata.
_PROTOCOL = frozenset(
    (
        b":method",
        b":path",
        b":scheme",
        b":authority",
        b"te",
        b"content-type",
        b"accept-encoding",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
    )
)

RESPONSE = (
    (b":status", b"200"),
    (b"content-type", CONTENT_TYPE),
    (b"grpc-accept-encoding", b",".join(ENCODINGS)),
)
OK = ((b"grpc-status", b"0"),)


class NotGrpc(Exception):
    """The request is none of gRPC's; `status` is the HTTP status that says why."""

    def __init__(self, status: bytes) -> None:
        super().__init__(status)
        self.status = status


class Head(NamedTuple):
    """What a call begins with.

    Args:
        method: `/package.Service/Method`.
        encoding: How its messages are compressed.
        accepts: How answers may be.
        metadata: What the caller sent beside.
        timeout_s: Seconds the caller waits; None: for ever.
    """

    method: str
    encoding: bytes
    accepts: bytes
    metadata: Metadata
    timeout_s: float | None = None


def read_head(headers: Sequence[Header]) -> Head:
    """Read the headers of a request.

    Raises:
        NotGrpc: It is another kind of request.
        InvalidArgument: `grpc-timeout`, or binary metadata, is not as it should be.
        ResourceExhausted: They are too large.
    """
    for place, (name, value) in enumerate(headers):
        if name == b"grpc-timeout":  # the one that is another in each call
            head = _read((*headers[:place], *headers[place + 1 :]))
            return head._replace(timeout_s=read_timeout(value))
    return _read(tuple(headers))


@lru_cache(256)  # callers send the same again and again
def _read(headers: tuple[Header, ...]) -> Head:
    size = sum(len(name) + len(value) for name, value in headers) + _OVERHEAD_BYTES * len(headers)
    if size > MOST_HEADER_BYTES:
        raise ResourceExhausted(
            f"the headers of the call take {size} bytes; send no more than {MOST_HEADER_BYTES}",
            metadata={"limit": MOST_HEADER_BYTES},
        )
    found = {name: value for name, value in headers if name in _PROTOCOL}
    if found.get(b":method") != b"POST":
        raise NotGrpc(b"405")
    if not _GRPC.match(found.get(b"content-type", b"")):
        raise NotGrpc(b"415")
    return Head(
        found[b":path"].decode("ascii", "replace"),
        found.get(b"grpc-encoding", IDENTITY),
        found.get(b"grpc-accept-encoding", b""),
        tuple(
            pair for name, value in headers if name not in _PROTOCOL for pair in _read_metadata(name, value)
        ),
    )


def read_timeout(value: bytes) -> float:
    """Read `grpc-timeout` as seconds.

    Raises:
        InvalidArgument: It is not one to eight digits and a unit.
    """
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        raise InvalidArgument(
            f"grpc-timeout {value[:20]!r} is not one to eight digits and one of H, M, S, m, u, n"
        )
    return int(found[1]) * _UNITS_S[found[2]]


def _read_metadata(name: bytes, value: bytes) -> Iterable[tuple[str, str | bytes]]:
    key = name.decode("ascii", "replace")
    if not key.endswith("-bin"):
        return [(key, value.decode("ascii", "replace"))]
    return [(key, _unpadded(key, part)) for part in value.split(b",")]


def _unpadded(key: str, value: bytes) -> bytes:
    """Decode base64 with or without its padding."""
    try:
        return base64.b64decode(value.strip() + b"=" * (-len(value.strip()) % 4), validate=True)
    except binascii.Error:
        raise InvalidArgument(f"metadata {key!r} is not base64, as names that end in -bin must be") from None


def write_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> list[Header]:
    """Write metadata of an answer.

    Raises:
        Internal: A key or value is none that HTTP allows.
    """
    return [_written(key, value) for key, value in metadata]


def _written(key: str, value: str | bytes) -> Header:
    if not _KEY.fullmatch(key) or (isinstance(value, str) and not _TEXT.fullmatch(value)):
        raise Internal(
            f"metadata {key!r} cannot be sent: keys are of a-z, 0-9, '_', '-' and '.', texts of printable ASCII"
        )
    return key.encode(), value.encode() if isinstance(value, str) else base64.b64encode(value).rstrip(b"=")


def trailers_of(status: status_pb2.Status) -> tuple[Header, ...]:
    """Return the trailers of a call that failed, its details included."""
    details = base64.b64encode(status.SerializeToString()).rstrip(b"=")
    return (
        (b"grpc-status", b"%d" % status.code),
        (b"grpc-message", escaped(status.message)),
        (STATUS_METADATA.encode(), details),
    )


def trailers_of_error(error: HeadraceError) -> tuple[Header, ...]:
    """Return the trailers of a call that failed so."""
    return trailers_of(to_status(error))


@lru_cache(256)
def escaped(message: str) -> bytes:
    """Percent-encode a `grpc-message`: what is not printable ASCII, and the percent sign."""
    return _UNPRINTABLE.sub(lambda found: b"%%%02X" % found[0][0], message.encode(errors="replace"))
