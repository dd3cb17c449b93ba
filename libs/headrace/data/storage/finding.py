"""From what a person writes to files: a path, a folder, a pattern or a URL, or several of them."""

import glob
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from headrace.data.storage import File
from headrace.data.storage.local import LocalFile
from headrace.data.storage.objects import ObjectFile, find_object, list_objects, open_store
from headrace.errors import DataUnreadable

_WILD = re.compile(r"[*?\[]")
Places = str | Path | Sequence[str | Path]


def find_files(places: Places, storage: Mapping[str, str], suffixes: Sequence[str] = ()) -> list[File]:
    """Find files, in an order that is the same on every machine: place after place, by name within one.

    Args:
        places: Each a file, a folder (all files below it but hidden ones and those that begin with `_`), or a pattern with `*`, `?`,
            `[...]` or `**`; a path, or a URL of s3://, gs://, az://, http(s)://, or file://. Behind http(s) only single files are found.
        storage: Options of object stores, as obstore names them.
        suffixes: Of the files wanted from folders, such as ".png"; none means all.
    Raises:
        DataUnreadable: A place has no file.
        Unavailable: A store does not answer.
    """
    found: list[File] = []
    for place in [places] if isinstance(places, (str, Path)) else places:
        files = [file for file in _find(str(place), storage, tuple(suffixes)) if file.size]
        if not files:
            wanted = f" ending in {', '.join(suffixes)}" if suffixes else ""
            raise DataUnreadable(
                f"there are no files{wanted} at {place}, or all are empty; correct the place"
            )
        found += files
    return found


def _find(place: str, storage: Mapping[str, str], suffixes: tuple[str, ...]) -> Iterator[File]:
    scheme = urlsplit(place).scheme if "://" in place else ""
    if scheme in ("", "file"):
        path = unquote(urlsplit(place).path) if scheme else place
        return _find_local(str(Path(path).expanduser()), suffixes)
    return _find_objects(place, storage, suffixes)


def _find_local(path: str, suffixes: tuple[str, ...]) -> Iterator[File]:
    if Path(path).is_dir():
        below = (str(each) for each in Path(path).rglob("*") if each.is_file())
        for name in sorted(below, key=_by_name):
            if _is_wanted(str(Path(name).relative_to(path)), suffixes):
                yield LocalFile.found(Path(name))
    elif _WILD.search(path) and not Path(path).exists():
        for name in sorted(glob.glob(path, recursive=True), key=_by_name):  # noqa: PTH207 - Path.glob takes no absolute pattern
            if Path(name).is_file():
                yield LocalFile.found(Path(name))
    else:
        yield LocalFile.found(Path(path))


def _find_objects(url: str, storage: Mapping[str, str], suffixes: tuple[str, ...]) -> Iterator[File]:
    store, path = open_store(url, storage)
    base = url.removesuffix(path).rstrip("/")
    listed: Iterable[ObjectFile]
    if wild := _WILD.search(path):
        matches = re.compile(_as_expression(path)).fullmatch
        prefix = path[: wild.start()].rpartition("/")[0]
        listed = (file for file in list_objects(store, prefix, base) if matches(file.path))
    elif path and not path.endswith("/") and (file := find_object(store, path, url)):
        listed = [file]
    elif url.startswith("http"):
        listed = []
    else:
        prefix = path.rstrip("/")
        listed = (
            file
            for file in list_objects(store, prefix, base)
            if _is_wanted(file.path.removeprefix(f"{prefix}/"), suffixes)
        )
    yield from sorted(listed, key=lambda file: _by_name(file.path))


def _is_wanted(relative: str, suffixes: tuple[str, ...]) -> bool:
    parts = PurePosixPath(relative).parts
    return not any(part.startswith((".", "_")) for part in parts) and (
        not suffixes or relative.lower().endswith(suffixes)
    )


def _by_name(path: str) -> list[str]:
    return path.split("/")


def _as_expression(pattern: str) -> str:
    """Put a pattern into a regular expression, as `glob` reads it: only `**` goes below a folder."""
    parts = re.split(r"(\*\*/?|\*|\?|\[!?\]?[^\]]*\])", pattern)
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        wild.get(part) or (part.replace("[!", "[^") if part.startswith("[") else re.escape(part))
        for part in parts
    )
