"""One line of a store's log: a change as bytes, each with a checksum, so that what a crash left can be told from the rest.

    magic, header's crc32c, payload's crc32c, worker, sequence, epoch, step, payload's length, samples | payload

All numbers are little-endian. `sequence` counts the changes of one store and epoch without gaps. What kinds of changes there are, by their
magic, and what each has as payload is in `kinds`.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from headrace_parameters.core.kinds import KINDS, PUSH, Change, Facts, Origin, intact, kind_of

_PREFIX = struct.Struct("<4sI")
_HEADER = struct.Struct("<IIQQQQd")
HEADER_BYTES = _PREFIX.size + _HEADER.size
_MAGIC_WORDS = np.array([int.from_bytes(magic, "little") for magic in KINDS], np.uint32)
_WINDOW_WORDS = 1 << 18  # searched at a time: what comes of it stays in a core's own cache


@dataclass(frozen=True)
class Entry:
    """A change in the log of its store, with its place in it, and the number of bytes it takes there."""

    sequence: int
    epoch: int
    change: Change
    size_bytes: int


class BadRecord(Exception):
    """The bytes are not a whole and sound record."""


class UnknownKind(Exception):
    """The bytes are a sound header, of a record that a later release wrote."""


def checksum(data: bytes | memoryview, before: int = 0) -> int:
    """Return the CRC-32C (Castagnoli) of `data`, which follows what has the checksum `before`."""
    # Here: it takes 5 MB, which no process without a log needs. It lets other threads run meanwhile.
    from awscrt.checksums import crc32c

    return int(crc32c(data, before))


@dataclass(frozen=True)
class Sealed:
    """A change with its payload.

    Args:
        known_crc: Checksum of the payload; None: it is made when the record is.
    """

    change: Change
    facts: Facts
    payload: memoryview
    known_crc: int | None = None

    @classmethod
    def of(cls, change: Change, *, summed: bool = True) -> "Sealed":
        """Write a change down; `payload` may share its memory.

        Args:
            summed: False for a record that is never on a disk: no checksum is made.
        """
        facts, payload = kind_of(change).write(change)
        return cls(change, facts, payload, None if summed else 0)

    @classmethod
    def received(cls, header: bytes, payload: memoryview, generation: int, *, summed: bool) -> "Sealed":
        """Read what `encode` gave in the process that made the change, which shares the memory of `payload`; that must be writable.

        Args:
            generation: As in `Origin`.
        Raises:
            BadRecord: It is cut off or, if it is summed, damaged.
            UnknownKind: This release cannot make such a change.
        """
        return _sealed(
            _read_header(memoryview(header)), payload, Origin(generation, checked=True), summed=summed
        )

    def summed_up(self) -> "Sealed":
        """Return it with its checksum: the long part of making a record."""
        return replace(self, known_crc=self._payload_crc)

    @property
    def _payload_crc(self) -> int:
        return checksum(self.payload) if self.known_crc is None else self.known_crc

    @property
    def size_bytes(self) -> int:
        """Of header and payload."""
        return HEADER_BYTES + self.payload.nbytes

    @property
    def intact(self) -> bool:
        """Whether the payload has been as it was until now."""
        return intact(self.change)

    def encode(self, sequence: int, epoch: int) -> tuple[bytes, memoryview]:
        """Return the header and the payload."""
        facts, magic = self.facts, kind_of(self.change).magic
        header = _HEADER.pack(
            self._payload_crc,
            facts.worker,
            sequence,
            epoch,
            facts.step,
            self.payload.nbytes,
            facts.samples,
        )
        return _PREFIX.pack(magic, _header_checksum(magic, header)) + header, self.payload


def decode(data: memoryview, generation: int = 0) -> Entry:
    """Read the record that `data` begins with; its change shares the memory of `data`, which must be writable.

    Args:
        generation: As in `Origin`.
    Raises:
        BadRecord: It is cut off or damaged.
        UnknownKind: This release cannot make such a change.
    """
    header = _read_header(data)
    size_bytes = HEADER_BYTES + header.length
    sealed = _sealed(header, data[HEADER_BYTES:size_bytes], Origin(generation), summed=True)
    return Entry(header.sequence, header.epoch, sealed.change, size_bytes)


def joined(changes: Sequence[Change], epoch: int) -> bytes:
    """Write records one after the other, numbered from 0."""
    written = [Sealed.of(change).encode(number, epoch) for number, change in enumerate(changes)]
    return b"".join(part for record in written for part in record)


def separated(data: memoryview, generation: int = 0) -> Iterator[Change]:
    """Read what `joined` wrote.

    Args:
        generation: As in `Origin`.
    Raises:
        BadRecord, UnknownKind: As `decode`.
    """
    while data.nbytes:
        entry = decode(data, generation)
        yield entry.change
        data = data[entry.size_bytes :]


class _Header(NamedTuple):
    magic: bytes
    payload_crc: int
    worker: int
    sequence: int
    epoch: int
    step: int
    length: int
    samples: float


def _sealed(header: _Header, payload: memoryview, origin: Origin, *, summed: bool) -> Sealed:
    sequence, length = header.sequence, header.length
    if payload.nbytes != length or length % 4:
        raise BadRecord(f"record {sequence} is cut off: {payload.nbytes} of {length} bytes are there")
    if summed and checksum(payload) != header.payload_crc:
        raise BadRecord(f"record {sequence} is damaged: its checksum does not match")
    facts = Facts(header.worker, header.step, header.samples)
    change = KINDS[header.magic].read(facts, payload, origin)
    return Sealed(change, facts, payload, header.payload_crc)


def _read_header(data: memoryview) -> _Header:
    if data.nbytes < HEADER_BYTES:
        raise BadRecord(f"a header is cut off: {data.nbytes} of {HEADER_BYTES} bytes are there")
    magic, found = _PREFIX.unpack_from(data)
    header = data[_PREFIX.size : HEADER_BYTES]
    if _header_checksum(magic, header) != found:
        raise BadRecord("a header is damaged")
    if magic not in KINDS:
        raise UnknownKind(f"there are records of kind {magic!r}; go on with the release that wrote them")
    return _Header(magic, *_HEADER.unpack(header))


def _header_checksum(magic: bytes, header: bytes | memoryview) -> int:
    """Return the checksum of a header, with its magic, so that no damage makes one kind of another; the oldest kind is summed up without."""
    return checksum(header, 0 if magic == PUSH.magic else checksum(magic))


def sequences_after(data: memoryview, start: int) -> Iterator[int]:
    """Find the sequence numbers of all sound headers, from `start` on; records begin at multiples of 4 bytes."""
    words = np.frombuffer(data[: data.nbytes // 4 * 4], "<u4")
    for first in range(-(-start // 4), words.size, _WINDOW_WORDS):
        for place in np.flatnonzero(np.isin(words[first : first + _WINDOW_WORDS], _MAGIC_WORDS)):
            with suppress(BadRecord):
                yield _read_header(data[4 * (first + int(place)) :]).sequence
