"""Messages within the bytes of a stream: each after a flag and its length, perhaps compressed (PROTOCOL-HTTP2, Length-Prefixed-Message)."""

import zlib
from collections.abc import Sequence

from headrace.errors import HeadraceError, Internal, ResourceExhausted, Unimplemented
from headrace.rpc.turbo.headers import ENCODINGS

PREFIX_BYTES = 5
_GZIP_BITS, _ZLIB_BITS = zlib.MAX_WBITS | 16, zlib.MAX_WBITS
_BITS = {b"gzip": _GZIP_BITS, b"deflate": _ZLIB_BITS}
_LARGE_BYTES = 1 << 16
LEVEL = 1  # speed: whoever wants to save more sends less


class Deframer:
    """Finds the messages of one stream in the pieces that come; each is given once it is whole.

    Args:
        limit: Largest message, bytes, before and after decompression.
        encoding: Of those that say they are compressed.
    """

    __slots__ = ("_encoding", "_flag", "_limit", "_pieces", "_size", "_wanted")

    def __init__(self, limit: int, encoding: bytes) -> None:
        self._limit = limit
        self._encoding = encoding
        self._pieces: list[bytes] = []
        self._size = 0
        self._flag: int | None = None  # of the message that has begun; None before its prefix is here
        self._wanted = PREFIX_BYTES

    @property
    def size(self) -> int:
        """How many bytes there are of a message that is not whole."""
        return self._size

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes, and return the messages that they complete.

        Raises:
            ResourceExhausted: A message is, or would become, larger than it may be.
            Internal, Unimplemented: The bytes are none of this protocol, or compressed as nobody said.
        """
        self._pieces.append(data)
        self._size += len(data)
        found: list[bytes] = []
        if self._size < self._wanted:
            return found
        here = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        at = 0
        while len(here) - at >= self._wanted:
            part = here[at : at + self._wanted]
            at += self._wanted
            if self._flag is None:
                # The prefix goes before the rest comes, so that a large message is put together once.
                self._flag, self._wanted = part[0], int.from_bytes(part[1:], "big")
                if self._wanted > self._limit:
                    raise too_large(self._wanted, self._limit)
            else:
                found.append(self._message(self._flag, part))
                self._flag, self._wanted = None, PREFIX_BYTES
        rest = here[at:]  # once, however many there were: a frame has room for 200,000 of nothing
        self._pieces, self._size = ([rest] if rest else []), len(rest)
        return found

    def _message(self, flag: int, data: bytes) -> bytes:
        if not flag:
            return data
        if flag != 1:
            raise Internal(f"a message begins with {flag}, which is neither 0 (plain) nor 1 (compressed)")
        return decompressed(data, self._encoding, self._limit)


def framed(message: bytes) -> Sequence[bytes]:
    """Return a plain message with its prefix: in two parts if it is large, for a copy costs more than a call then."""
    prefix = b"\0" + len(message).to_bytes(4, "big")
    return (prefix, message) if len(message) > _LARGE_BYTES else (prefix + message,)


def framed_compressed(message: bytes, encoding: bytes) -> Sequence[bytes]:
    """Return a compressed message with its prefix."""
    packing = zlib.compressobj(LEVEL, wbits=_BITS[encoding])
    packed = packing.compress(message) + packing.flush()
    return (b"\1" + len(packed).to_bytes(4, "big"), packed)


def decompressed(data: bytes, encoding: bytes, limit: int) -> bytes:
    """Unpack a message.

    Raises:
        Unimplemented: The encoding is not known.
        Internal: It is damaged, or was said to be plain.
        ResourceExhausted: It would become larger than `limit`.
    """
    if encoding == b"identity":
        raise Internal("a message says that it is compressed, but no grpc-encoding was given")
    if encoding not in _BITS:
        raise unknown_encoding(encoding)
    unpacking = zlib.decompressobj(_BITS[encoding])
    try:
        message = unpacking.decompress(data, limit)
        if unpacking.unconsumed_tail and unpacking.decompress(unpacking.unconsumed_tail, 1):
            raise too_large(limit + 1, limit)
    except zlib.error as error:
        raise Internal(f"a message is not {encoding.decode()}: {error}") from None
    if not unpacking.eof:
        raise Internal(f"a message ends before its {encoding.decode()} does")
    return message


def unknown_encoding(encoding: bytes) -> HeadraceError:
    """Say which encodings there are."""
    known = b", ".join(ENCODINGS).decode()
    return Unimplemented(
        f"grpc-encoding {encoding[:40].decode('ascii', 'replace')!r} is not known; known are {known}"
    )


def too_large(size: int, limit: int) -> HeadraceError:
    """Say how large a message may be."""
    return ResourceExhausted(
        f"a message of {size} bytes or more is larger than max ({limit}); send less at a time",
        metadata={"limit": limit},
    )
