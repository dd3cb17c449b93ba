"""Server reflection over several descriptor pools, as if they were one."""

from collections.abc import Callable, Container, Sequence
from typing import TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import Default, DescriptorPool

Found = TypeVar("Found")


class CompositePool:
    """Looks into the default pool, then into each of the others.

    The stubs of the Open Inference Protocol live in a pool of their own, and a caller of reflection must not notice.
    """

    def __init__(self, pools: Sequence[DescriptorPool]) -> None:
        self._pools = (Default(), *pools)

    def FindFileByName(self, file_name: str) -> FileDescriptor:
        """Find a .proto by its path."""
        return self._first(lambda pool: pool.FindFileByName(file_name))

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Find the .proto that defines a full name."""
        return self._first(lambda pool: _file_of(pool, symbol))

    def FindMessageTypeByName(self, full_name: str) -> Descriptor:
        """Find a message type."""
        return self._first(lambda pool: pool.FindMessageTypeByName(full_name))

    def FindExtensionByNumber(self, message: Descriptor, number: int) -> FieldDescriptor:
        """Find an extension of a message type."""
        return _pool_of(message).FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Descriptor) -> list[FieldDescriptor]:
        """Find all extensions of a message type."""
        return list(_pool_of(message).FindAllExtensions(message))

    def _first(self, find: Callable[[DescriptorPool], Found]) -> Found:
        for pool in self._pools[:-1]:
            try:
                return find(pool)
            except KeyError:
                continue
        return find(self._pools[-1])


def _file_of(pool: DescriptorPool, symbol: str) -> FileDescriptor:
    """Find the file of a symbol; a method or a field, which Python's pool does not know by name, by its parent's."""
    try:
        return pool.FindFileContainingSymbol(symbol)
    except KeyError:
        parent, _, name = symbol.rpartition(".")
        file = pool.FindFileContainingSymbol(parent)
        if name not in _members(pool, parent):
            raise
        return file


def _members(pool: DescriptorPool, parent: str) -> Container[str]:
    try:
        return pool.FindServiceByName(parent).methods_by_name
    except KeyError:
        return pool.FindMessageTypeByName(parent).fields_by_name


def _pool_of(message: Descriptor) -> DescriptorPool:
    """Return the pool a type belongs to; a type asked of another pool is an error there."""
    pool: DescriptorPool = message.file.pool
    return pool
