"""One line of a store's log: an accepted push as bytes, each with a checksum, so that what a crash left can be told from the rest.

    magic, header's crc32c, payload's crc32c, worker, sequence, epoch, step, payload's length, samples | gradient

All numbers are little-endian. `sequence` counts the pushes of one store and epoch without gaps. The record of a push that covers a part
of the values has another magic, and before the gradient the number of parts and where each begins and ends.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import google_crc32c
import numpy as np

from headrace.parameters.layout import Floats
from headrace_parameters.core.shard import Push

MAGIC, _PARTIAL = b"HRP1", b"HRP2"
_MAGIC_WORDS = [int.from_bytes(magic, "little") for magic in (MAGIC, _PARTIAL)]
_PREFIX = struct.Struct("<4sI")
_FACTS = struct.Struct("<IIQQQQd")
_COUNT = np.dtype("<u4")
_EDGE = np.dtype("<u8")
HEADER_BYTES = _PREFIX.size + _FACTS.size
_PIECE_BYTES = 1 << 22  # summed up at a time: the C function lets no other thread run meanwhile
_WINDOW_WORDS = 1 << 18  # searched at a time: what comes of it stays in a core's own cache


@dataclass(frozen=True)
class Entry:
    """A push in the log of its store, with its place in it, and the number of bytes it takes there."""

    sequence: int
    epoch: int
    push: Push
    size_bytes: int


class BadRecord(Exception):
    """The bytes are not a whole and sound record."""


def checksum(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-32C (Castagnoli) of `data`, which follows what has the checksum `before`."""
    # The C function takes read-only buffers alone, and a view of an array is one without a copy.
    view = np.frombuffer(data, np.uint8)
    view.flags.writeable = False
    found = before
    for start in range(0, view.size, _PIECE_BYTES):
        found = google_crc32c.extend(found, view[start : start + _PIECE_BYTES])
    return found


@dataclass(frozen=True)
class Sealed:
    """A push with the checksum of its gradient: the long part of making a record, which needs nobody else to wait."""

    push: Push
    payload: memoryview
    payload_crc: int

    @classmethod
    def of(cls, push: Push, *, summed: bool = True) -> "Sealed":
        """Sum up a gradient; `payload` shares its memory.

        Args:
            summed: False for a record that is never on a disk: no checksum is made.
        """
        payload = np.ascontiguousarray(push.gradient, "<f4").view(np.uint8).data
        if push.covers is not None:
            payload = memoryview(_covers_bytes(push.covers) + bytes(payload))
        return cls(push, payload, checksum(payload) if summed else 0)

    @classmethod
    def received(cls, header: bytes, payload: memoryview, generation: int, *, summed: bool) -> "Sealed":
        """Read what `encode` gave in the process that took the push; the gradient shares the memory of `payload`, which must be writable.

        Args:
            generation: Of the members among whom it was pushed; records do not say, but a base comes between two generations.
        Raises:
            BadRecord: It is cut off or, if it is summed, damaged.
        """
        partial = header[: len(MAGIC)] == _PARTIAL
        facts = _facts(memoryview(header))
        return _sealed(facts, payload, generation, partial=partial, summed=summed, checked=True)

    def encode(self, sequence: int, epoch: int) -> tuple[bytes, memoryview]:
        """Return the header and the payload."""
        push, length = self.push, self.payload.nbytes
        facts = _FACTS.pack(self.payload_crc, push.worker, sequence, epoch, push.step, length, push.samples)
        magic = MAGIC if push.covers is None else _PARTIAL
        return _PREFIX.pack(magic, _header_checksum(magic, facts)) + facts, self.payload


def decode(data: memoryview) -> Entry:
    """Read the record that `data` begins with; its gradient shares the memory of `data`, which must be writable.

    Raises:
        BadRecord: It is cut off or damaged.
    """
    facts = _facts(data)
    _, _, sequence, epoch, _, length, _ = facts
    partial, payload = data[: len(MAGIC)] == _PARTIAL, data[HEADER_BYTES : HEADER_BYTES + length]
    sealed = _sealed(facts, payload, 0, partial=partial, summed=True)
    return Entry(sequence, epoch, sealed.push, HEADER_BYTES + length)


def _sealed(
    facts: tuple[int, int, int, int, int, int, float],
    payload: memoryview,
    generation: int,
    *,
    partial: bool,
    summed: bool,
    checked: bool = False,
) -> Sealed:
    crc, worker, sequence, _, step, length, samples = facts
    if payload.nbytes != length or length % 4:
        raise BadRecord(f"record {sequence} is cut off: {payload.nbytes} of {length} bytes are there")
    if summed and checksum(payload) != crc:
        raise BadRecord(f"record {sequence} is damaged: its checksum does not match")
    covers, start = _read_covers(payload) if partial else (None, 0)
    gradient: Floats = np.frombuffer(payload[start:], "<f4").astype(np.float32, copy=False)
    push = Push(worker, step, samples, gradient, generation, checked=checked, covers=covers)
    return Sealed(push, payload, crc)


def _covers_bytes(covers: Sequence[range]) -> bytes:
    edges = np.array([[part.start, part.stop] for part in covers], _EDGE)
    return np.array([len(covers)], _COUNT).tobytes() + edges.tobytes()


def _read_covers(payload: memoryview) -> tuple[tuple[range, ...], int]:
    """Return the parts a payload with a sound checksum begins with, and where its gradient begins."""
    count = int(np.frombuffer(payload, _COUNT, 1)[0])
    edges = np.frombuffer(payload, _EDGE, 2 * count, _COUNT.itemsize).reshape(-1, 2)
    covers = tuple(range(int(start), int(stop)) for start, stop in edges)
    return covers, _COUNT.itemsize + 2 * count * _EDGE.itemsize


def _facts(data: memoryview) -> tuple[int, int, int, int, int, int, float]:
    if data.nbytes < HEADER_BYTES:
        raise BadRecord(f"a header is cut off: {data.nbytes} of {HEADER_BYTES} bytes are there")
    magic, found = _PREFIX.unpack_from(data)
    facts = data[_PREFIX.size : HEADER_BYTES]
    if magic not in (MAGIC, _PARTIAL) or _header_checksum(magic, facts) != found:
        raise BadRecord("a header is damaged")
    return _FACTS.unpack(facts)


def _header_checksum(magic: bytes, facts: bytes | memoryview) -> int:
    """Return the checksum of a header; the magic of parts is in it, so that no damage makes one of the other."""
    return checksum(facts, checksum(magic) if magic == _PARTIAL else 0)


def sequences_after(data: memoryview, start: int) -> Iterator[int]:
    """Find the sequence numbers of all sound headers, from `start` on; records begin at multiples of 4 bytes."""
    words = np.frombuffer(data[: data.nbytes // 4 * 4], "<u4")
    for first in range(-(-start // 4), words.size, _WINDOW_WORDS):
        window = words[first : first + _WINDOW_WORDS]
        for place in np.flatnonzero((window == _MAGIC_WORDS[0]) | (window == _MAGIC_WORDS[1])):
            with suppress(BadRecord):
                yield _facts(data[4 * (first + int(place)) :])[2]
