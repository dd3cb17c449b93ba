"""A user's sources as one gzip-compressed tar: packed the same way each time, unpacked without trust."""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from headrace.errors import InvalidArgument

# Sources, not data: data belongs into an artifact of its own, or into an installed package.
MAX_FILES = 1000
MAX_BYTES = 16 << 20  # of all files together
_TAR_OVERHEAD = 2048 * MAX_FILES + (1 << 20)  # headers and padding of that many members
_GZIP = 16 + zlib.MAX_WBITS
_SKIPPED_FOLDERS = frozenset({"__pycache__"})


def pack(path: Path) -> bytes:
    """Pack a Python file, or a folder of them; the same sources give the same bytes.

    A package (a folder with `__init__.py`) keeps its name in the archive; of any other folder the content is packed.
    Hidden files and folders, `__pycache__` and links are left out.

    Raises:
        InvalidArgument: There is nothing to pack, or more than `MAX_FILES` files or `MAX_BYTES` bytes.
    """
    files = dict(_sources(path))
    if not files:
        raise InvalidArgument(
            f"{path} is no file and no folder with files; name a .py file or a folder of them"
        )
    _check_size(str(path), len(files), sum(file.stat().st_size for file in files.values()))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, file in sorted(files.items()):
            # Owner, mode and time stay at their defaults: they are not content.
            member = tarfile.TarInfo(name)
            member.size = file.stat().st_size
            with file.open("rb") as source:
                tar.addfile(member, source)
    return gzip.compress(buffer.getvalue(), mtime=0)


def unpack(data: bytes, folder: Path) -> list[str]:
    """Write the files of an archive below `folder`, which should be empty.

    Only names and bytes are taken from the archive: no links, devices, owners, modes or times.

    Returns:
        The names of the files, relative to `folder`.
    Raises:
        InvalidArgument: It is no archive, is too large, or has a member that is no file within `folder`.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(_decompress(data)), mode="r:") as tar:
            members = _checked(tar)
            for member in members:
                _write(tar, member, folder)
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InvalidArgument(f"the archive is damaged: {error}; pack and upload it again") from error
    return [member.name for member in members]


def _sources(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield (name in the archive, file)."""
    if path.is_file():
        yield path.name, path
        return
    root = path.resolve()
    base = root.parent if (root / "__init__.py").is_file() else root
    for file in root.rglob("*"):
        if file.is_file() and not file.is_symlink() and not _is_skipped(file.relative_to(root).parts):
            yield file.relative_to(base).as_posix(), file


def _is_skipped(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or part in _SKIPPED_FOLDERS for part in parts)


def _decompress(data: bytes) -> bytes:
    """Decompress no more than a valid archive can hold: a small gzip may stand for terabytes."""
    limit = MAX_BYTES + _TAR_OVERHEAD
    stream = zlib.decompressobj(_GZIP)
    try:
        tar = stream.decompress(data, limit)
    except zlib.error as error:
        raise InvalidArgument(f"the archive is not gzip-compressed: {error}; pack it as .tar.gz") from error
    if not stream.eof:
        why = f"unpacks to more than {limit} bytes" if stream.unconsumed_tail else "is cut off"
        raise InvalidArgument(f"the archive {why}; pack the sources alone, and upload them again")
    return tar


def _checked(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Return the files of the archive if every member may be unpacked."""
    files: list[tarfile.TarInfo] = []
    for member in tar:
        _check_member(member)
        if member.isfile():
            files.append(member)
            _check_size("the archive", len(files), sum(file.size for file in files))
    if not files:
        raise InvalidArgument("the archive has no files; pack a .py file or a folder of them")
    return files


def _check_member(member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name or "\0" in member.name:
        raise InvalidArgument(
            f"archive member {member.name!r} leads out of the archive; use paths relative to its root, without .."
        )
    if not (member.isfile() or member.isdir()):
        raise InvalidArgument(f"archive member {member.name!r} is no file; links and devices are not taken")


def _check_size(what: str, files: int, size_bytes: int) -> None:
    if files > MAX_FILES or size_bytes > MAX_BYTES:
        raise InvalidArgument(
            f"{what} has {files} files of {size_bytes} bytes together; at most {MAX_FILES} files of {MAX_BYTES} bytes are "
            f"taken: pack the sources alone"
        )


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    content = tar.extractfile(member)
    assert content is not None, "only files are written"
    target = folder / member.name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            file.write(content.read())
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise InvalidArgument(
            f"archive member {member.name!r} is there twice, as a file or a folder; pack it once"
        ) from error
