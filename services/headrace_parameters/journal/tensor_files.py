"""Files in the format of safetensors, written column by column over what is there, and read only if they are what was written."""

import json
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from headrace_parameters.core.record import checksum
from headrace_parameters.journal.files import write_all

Bytes = npt.NDArray[np.uint8]

_BLOCK_BYTES = 1 << 20
_PAGE_BYTES = 1 << 12
_HEADER_BYTES = 512  # a header takes a multiple of this,
_ROOM_BYTES = 64  # with room for numbers in it to become longer
_LENGTH = struct.Struct("<Q")
_DTYPES = {torch.float32: "F32", torch.int64: "I64", torch.int32: "I32"}


class Damaged(Exception):
    """A file is not what was written."""


@dataclass(frozen=True)
class Column:
    """A tensor to be written, in blocks of any size.

    Args:
        dtype: As safetensors names it.
        size_bytes: Of all blocks.
    """

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int
    blocks: Iterable[Bytes]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Self:
        """Write a tensor as it is."""
        array = tensor.contiguous().numpy().reshape(-1).view(np.uint8)
        return cls(_DTYPES[tensor.dtype], tuple(tensor.shape), array.size, [array])


def write_over(path: Path, columns: Mapping[str, Column], metadata: Mapping[str, str]) -> int:
    """Make a file have these columns, on the disk too, of which only that is written which is not there yet; return its checksum.

    Raises:
        OSError: It could not be written.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    crc = offset = 0
    try:
        for block in _blocks(columns, metadata):
            crc = checksum(block.data, crc)
            if not _is_there(file, block, offset):
                write_all(file, [block.data], offset)
            offset += block.size
        os.ftruncate(file, offset)
        os.fsync(file)
    finally:
        os.close(file)
    return crc


def read(path: Path, crc: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return the tensors of a file, which are mapped, and its metadata.

    Raises:
        Damaged: It has another checksum, or cannot be read.
    """
    try:
        if _crc_of(path) != crc:
            raise Damaged(f"{path.name} is damaged: its checksum does not match")
        with safe_open(path, framework="pt") as file:
            # Not copied: nobody writes to such a file while it is needed, and its pages outlive its name.
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise Damaged(f"{path.name} cannot be read: {error}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a file, whatever its tensors are; Damaged if it cannot be read."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise Damaged(f"{path.name} cannot be read: {error}") from error


def _crc_of(path: Path) -> int:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return checksum(b"")
        return checksum(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _blocks(columns: Mapping[str, Column], metadata: Mapping[str, str]) -> Iterator[Bytes]:
    """Yield a file in blocks: the length of the header, the header in JSON, the values."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, column in columns.items():
        facts = {"dtype": column.dtype, "shape": list(column.shape)}
        header[name] = facts | {"data_offsets": [start, start := start + column.size_bytes]}
    text = json.dumps(header).encode()
    # With spaces behind it, so that the values lie where those of the file before lie, whose header has a digit less.
    length = -(-(_LENGTH.size + len(text) + _ROOM_BYTES) // _HEADER_BYTES) * _HEADER_BYTES - _LENGTH.size
    yield np.frombuffer(_LENGTH.pack(length) + text.ljust(length), np.uint8)
    for column in columns.values():
        for part in column.blocks:
            for start in range(0, part.size, _BLOCK_BYTES):
                yield part[start : start + _BLOCK_BYTES]


def _is_there(file: int, block: Bytes, offset: int) -> bool:
    """Tell whether a file has a block already; most that have not differ in the first page."""
    for size in (min(block.size, _PAGE_BYTES), block.size):
        found = os.pread(file, size, offset)
        if len(found) < size or not np.array_equal(np.frombuffer(found, np.uint8), block[:size]):
            return False
    return True
