"""Memory that one process writes and others of its machine map to read.

own = OwnSegment(1000)                    # in the one process
own.sequence = 1
mapped = MappedSegment(own.describe())    # in the other
mapped.values[:3], mapped.sequence

A segment is a memfd: it has no name in any file system, so nothing is left of it when its processes are gone, however they go. Other
processes reach it through /proc/{pid}/fd, which the kernel lets only those of the same user do, and of the same container. Its
size is sealed, so that the owner cannot shrink it under a reader (who would be killed by SIGBUS), and so is writing by anyone but
the owner. Linux 5.1 has all that; elsewhere there is no shared memory.
"""

import fcntl
import hmac
import mmap
import os
import secrets
import sys
import weakref
from pathlib import Path

import numpy as np

from headrace.errors import SharedMemoryUnavailable
from headrace.parameters.layout import Floats
from headrace.parameters.v1 import shared_memory_pb2

_NAME = "headrace"
_HEADER = 4096  # one page: values begin at an address that suits every vector instruction
_NONCE = 16
_FUTURE_WRITE = 0x10  # F_SEAL_FUTURE_WRITE of linux/fcntl.h, which Python's fcntl lacks
_VALUE = np.dtype("<f4")


class OwnSegment:
    """A segment of this process.

    Args:
        capacity: Number of values it has room for.
    Raises:
        SharedMemoryUnavailable: The system has no such memory.
    """

    def __init__(self, capacity: int) -> None:
        self._memory, self._fd = _create(_HEADER + capacity * _VALUE.itemsize)
        # mmap keeps a descriptor of its own: without this one, nobody else finds the memory.
        self._close = weakref.finalize(self, os.close, self._fd)
        self._capacity = capacity
        self._nonce = secrets.token_bytes(_NONCE)
        self._memory[:_NONCE] = self._nonce
        self._sequence = _sequence(self._memory)

    @property
    def capacity(self) -> int:
        """Number of values it has room for."""
        return self._capacity

    @property
    def nonce(self) -> bytes:
        """What tells it from any other segment."""
        return self._nonce

    @property
    def sequence(self) -> int:
        """Which values lie in it."""
        return int(self._sequence[0])

    @sequence.setter
    def sequence(self, value: int) -> None:
        self._sequence[0] = value

    def view(self) -> Floats:
        """Return its values, shape (capacity,), as an array that nothing else refers to."""
        return np.frombuffer(self._memory, _VALUE, self._capacity, _HEADER)

    def describe(self) -> shared_memory_pb2.Segment:
        """Say how others find it."""
        return shared_memory_pb2.Segment(
            pid=os.getpid(), fd=self._fd, nonce=self._nonce, capacity=self._capacity
        )

    def close(self) -> None:
        """Let nobody else find it; who has mapped it, and arrays of it here, keep the memory."""
        self._close()


class MappedSegment:
    """A segment of another process, to read.

    Args:
        writable: What is written to `values` stays in this process (copy on write), for callees that ask for writable memory.
        passed_on: Others shall find it through this process too, for as long as this object is there.
    Raises:
        SharedMemoryUnavailable: It cannot be reached, or it is not the one that was meant; the message says why.
    """

    def __init__(
        self, segment: shared_memory_pb2.Segment, *, writable: bool = False, passed_on: bool = False
    ) -> None:
        self.nonce = segment.nonce
        self._where = segment
        fd = _open(segment)
        if passed_on:
            self._fd = fd
            weakref.finalize(self, os.close, fd)
        try:
            self._memory = _map(segment, fd, writable=writable)
        finally:
            if not passed_on:
                os.close(fd)
        if not hmac.compare_digest(self._memory[:_NONCE], segment.nonce):
            raise SharedMemoryUnavailable(
                f"file {segment.fd} of process {segment.pid} is other memory here: the peer is on another machine"
            )
        self.values: Floats = np.frombuffer(self._memory, _VALUE, segment.capacity, _HEADER)
        self._sequence = _sequence(self._memory)

    @property
    def sequence(self) -> int:
        """Which values lie in it now."""
        return int(self._sequence[0])

    def part(self, where: shared_memory_pb2.SharedValues | shared_memory_pb2.SharedSpan) -> Floats:
        """Return the values `where` begins with, which may change: look at `is_current` after copying them.

        Raises:
            SharedMemoryUnavailable: The segment does not have as many.
        """
        if where.offset + where.count > self.values.size:
            raise SharedMemoryUnavailable(
                f"{where.count} values from {where.offset} on do not lie in a segment of {self.values.size}"
            )
        return self.values[where.offset : where.offset + where.count]

    def is_current(self, where: shared_memory_pb2.SharedValues) -> bool:
        """Tell whether the values `where` tells of have been in their place until now."""
        return self.sequence == where.sequence

    def can_be_found(self) -> bool:
        """Tell whether it is still where it was found; if not, it is kept by those alone who have mapped it."""
        try:
            fd = _open(self._where)
        except SharedMemoryUnavailable:
            return False
        try:
            return hmac.compare_digest(os.pread(fd, _NONCE, 0), self.nonce)
        finally:
            os.close(fd)

    def pass_on(self, where: shared_memory_pb2.SharedValues) -> shared_memory_pb2.SharedValues:
        """Say how others find the same values through this process, whatever becomes of the one whose memory it is."""
        through = shared_memory_pb2.Segment(
            pid=os.getpid(), fd=self._fd, nonce=self.nonce, capacity=self.values.size
        )
        return shared_memory_pb2.SharedValues(
            segment=through, sequence=where.sequence, offset=where.offset, count=where.count
        )


def _sequence(memory: mmap.mmap) -> "np.ndarray[tuple[int], np.dtype[np.uint64]]":
    # An aligned word: written and read as a whole, and in order with the values, by every 64-bit processor that keeps its
    # stores in order (x86), or by the barriers in the interpreter's own lock, which every large copy gives back and takes.
    return np.frombuffer(memory, np.dtype("<u8"), 1, _NONCE)


def _create(size: int) -> tuple[mmap.mmap, int]:
    if sys.platform != "linux":
        raise SharedMemoryUnavailable(f"{sys.platform} has no memory that processes share without a name")
    fd = -1
    try:
        fd = os.memfd_create(_NAME, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        memory = mmap.mmap(fd, size)  # before it is sealed: this mapping alone can write
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _FUTURE_WRITE)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        raise SharedMemoryUnavailable(f"cannot make memory to share: {error}") from error
    return memory, fd


def _size_bytes(segment: shared_memory_pb2.Segment) -> int:
    return _HEADER + int(segment.capacity) * _VALUE.itemsize


def _open(segment: shared_memory_pb2.Segment) -> int:
    """Return a descriptor of the segment, which its owner cannot shrink."""
    path = Path(f"/proc/{segment.pid}/fd/{segment.fd}")
    try:
        # Looked at before it is opened: to open a pipe or a device of that process could do something.
        if not str(path.readlink()).startswith(f"/memfd:{_NAME}"):
            raise SharedMemoryUnavailable(f"{path} is not memory to share: the peer is on another machine")
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SharedMemoryUnavailable(
            f"cannot open {path}: {error.strerror}; both processes must run on one machine, as one user, in one container"
        ) from error
    try:
        sealed = fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        if not sealed or os.fstat(fd).st_size != _size_bytes(segment):
            raise SharedMemoryUnavailable(f"{path} is not sealed with {_size_bytes(segment)} bytes")
    except OSError as error:
        os.close(fd)
        raise SharedMemoryUnavailable(f"cannot look at {path}: {error}") from error
    except SharedMemoryUnavailable:
        os.close(fd)
        raise
    return fd


def _map(segment: shared_memory_pb2.Segment, fd: int, *, writable: bool) -> mmap.mmap:
    try:
        if writable:
            return mmap.mmap(fd, _size_bytes(segment), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        return mmap.mmap(fd, _size_bytes(segment), mmap.MAP_SHARED, mmap.PROT_READ)
    except (OSError, OverflowError) as error:
        raise SharedMemoryUnavailable(
            f"cannot map file {segment.fd} of process {segment.pid}: {error}"
        ) from error
