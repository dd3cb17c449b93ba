"""Shared memory of this machine that callers put tensors in, by the names they registered it under.

Memory is read and written through its descriptor, never mapped: whoever shrinks an object while the server works on a mapping of it
ends the server with SIGBUS, and there is no way to forbid that. See docs/decisions/0071-shared-memory-by-descriptor.md.
"""

import os
import stat
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from headrace.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SharedMemoryUnavailable,
)

FOLDER = Path("/dev/shm")  # noqa: S108 - where Linux keeps the objects of shm_open
MAX_KEY_BYTES = 255  # of a name in that folder
MAX_REGIONS = 1024  # of one project: each holds a descriptor
MAX_BYTES = (1 << 63) - 1  # offsets of a file are signed


@dataclass(frozen=True)
class Extent:
    """What a region is: part of a memory object.

    Args:
        key: Name of the object, as its maker gave it to shm_open.
        offset, size_bytes: Where in the object.
    """

    key: str
    offset: int
    size_bytes: int


class Region:
    """An open region; it closes when nobody holds it any more, so requests outlive its unregistration."""

    def __init__(self, name: str, extent: Extent, descriptor: int) -> None:
        self.name = name
        self.extent = extent
        self._descriptor = descriptor
        weakref.finalize(self, os.close, descriptor)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return a copy of a part of the region.

        Raises:
            InvalidArgument: The part does not lie within the region, or its owner has made the object smaller.
        """
        begin, end = self._span(offset, size_bytes)
        parts: list[bytes] = []
        while begin < end or not parts:  # one call reads no more than 2 GiB
            data = os.pread(self._descriptor, end - begin, begin)
            if not data and begin < end:
                raise self._shrunk()
            parts.append(data)
            begin += len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, offset: int, data: memoryview) -> None:
        """Put `data`, which has the format "B", into the region.

        Raises:
            InvalidArgument: They do not fit, or the region's owner has made the object smaller.
            ResourceExhausted: The machine has no memory for a part of the object that nobody has written to before.
        """
        begin, end = self._span(offset, len(data))
        while begin < end:
            try:
                written = os.pwrite(self._descriptor, data, begin)
            except OSError as error:
                raise ResourceExhausted(
                    f"cannot write to the memory object {self.extent.key!r}: {error.strerror}; make room on the server's machine"
                ) from None
            begin, data = begin + written, data[written:]

    def check(self, offset: int, size_bytes: int) -> None:
        """Refuse a part that does not lie within the region.

        Raises:
            InvalidArgument: It does not.
        """
        if offset + size_bytes > self.extent.size_bytes:
            raise InvalidArgument(
                f"{size_bytes} bytes from {offset} on do not lie within shared memory region {self.name!r}, "
                f"which has {self.extent.size_bytes}"
            )

    def is_same_object(self, descriptor: int) -> bool:
        """Tell whether this is open there too: the name of an object may come to mean another one."""
        return os.path.sameopenfile(self._descriptor, descriptor)

    def _span(self, offset: int, size_bytes: int) -> tuple[int, int]:
        self.check(offset, size_bytes)
        begin = self.extent.offset + offset
        if begin + size_bytes > os.fstat(self._descriptor).st_size:
            raise self._shrunk()
        return begin, begin + size_bytes

    def _shrunk(self) -> InvalidArgument:
        return InvalidArgument(
            f"the memory object {self.extent.key!r} of shared memory region {self.name!r} has become smaller; "
            "register one that stays"
        )


class Regions:
    """The regions of all projects; thread-safe.

    A memory object that one project has registered is not given to another one.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._regions: dict[tuple[str, str], Region] = {}
        self._lock = threading.Lock()

    def register(self, project: str, name: str, extent: Extent) -> None:
        """Make a region known; to do so again changes nothing.

        Raises:
            InvalidArgument: A name or a number cannot be right, or the region does not lie within the object.
            NotFound: There is no such memory object.
            AlreadyExists: Another region has this name.
            PermissionDenied: The object is another project's, or the server may not read and write it.
            ResourceExhausted: The project has as many regions as it may.
        """
        if not name:
            raise InvalidArgument("a shared memory region needs a name", field="name")
        descriptor = self._open(extent)
        try:
            with self._lock:
                if self._is_new(project, name, extent, descriptor):
                    self._regions[project, name] = Region(name, extent, descriptor)
                    descriptor = -1
        finally:
            if descriptor >= 0:
                os.close(descriptor)

    def _is_new(self, project: str, name: str, extent: Extent, descriptor: int) -> bool:
        known = self._regions.get((project, name))
        if known is not None:
            if known.extent == extent and known.is_same_object(descriptor):
                return False
            raise AlreadyExists(
                f"shared memory region {name!r} is registered already; unregister it first, or take another name"
            )
        for (owner, _), region in self._regions.items():
            if owner != project and region.is_same_object(descriptor):
                raise PermissionDenied(f"the memory object {extent.key!r} is not of this project")
        if sum(owner == project for owner, _ in self._regions) >= MAX_REGIONS:
            raise ResourceExhausted(
                f"the project has {MAX_REGIONS} shared memory regions already; unregister some"
            )
        return True

    def find(self, project: str, name: str) -> Region:
        """Return a region.

        Raises:
            NotFound: It is not registered.
        """
        region = self._regions.get((project, name))
        if region is None:
            raise NotFound(f"shared memory region {name!r} is not registered; register it first")
        return region

    def list(self, project: str, name: str = "") -> "list[Region]":
        """Return the regions of a project by name, or the one that is named.

        Raises:
            NotFound: That one is not registered.
        """
        return [self.find(project, name)] if name else [*self._of(project)]

    def unregister(self, project: str, name: str = "") -> None:
        """Forget a region, or all of a project; one that is not registered is forgotten already."""
        with self._lock:
            for region in [*self._of(project)]:
                if name in ("", region.name):
                    del self._regions[project, region.name]

    def _of(self, project: str) -> Iterator[Region]:
        return (region for (owner, _), region in sorted(self._regions.items()) if owner == project)

    def _open(self, extent: Extent) -> int:
        """Open the memory object.

        Raises:
            InvalidArgument, NotFound, PermissionDenied: As `register`.
        """
        name = _object_name(extent.key)
        try:
            # NOFOLLOW: the name of an object shall lead nowhere else.
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(self._folder / name, flags)
        except FileNotFoundError:
            if not self._folder.is_dir():
                raise SharedMemoryUnavailable(f"this machine has no {self._folder}; send contents") from None
            raise NotFound(
                f"there is no memory object {extent.key!r} on the server's machine; make it first"
            ) from None
        except PermissionError:
            raise PermissionDenied(
                f"the server may not read and write the memory object {extent.key!r}; let its user"
            ) from None
        except OSError as error:
            raise InvalidArgument(
                f"{extent.key!r} is no memory object: {error.strerror}", field="key"
            ) from None
        try:
            _check_extent(extent, os.fstat(descriptor))
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def _object_name(key: str) -> str:
    name = key.removeprefix("/")
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(name.encode()) > MAX_KEY_BYTES:
        raise InvalidArgument(
            f"key {key!r} names no memory object; it has 1 to {MAX_KEY_BYTES} bytes and no slash but the first",
            field="key",
        )
    return name


def _check_extent(extent: Extent, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InvalidArgument(f"{extent.key!r} is no memory object", field="key")
    if extent.size_bytes < 1:
        raise InvalidArgument("byte_size is 0; a region has at least one byte", field="byte_size")
    if extent.offset + extent.size_bytes > min(status.st_size, MAX_BYTES):
        raise InvalidArgument(
            f"{extent.size_bytes} bytes from {extent.offset} on do not lie within the memory object {extent.key!r}, "
            f"which has {status.st_size}",
            field="byte_size",
        )
