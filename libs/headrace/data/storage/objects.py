"""Objects of S3, Google Cloud Storage, Azure and plain HTTP servers, by obstore."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from headrace.data.needed import needed
from headrace.errors import DataChanged, DataUnreadable, Unavailable

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_RETRIES, _RETRY_S = 3, timedelta(seconds=30)  # then the attempt fails, and the scheduler begins another


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """An object as it was when it was found."""

    store: ObjectStore
    path: str
    name: str
    size: int
    etag: str | None  # None where the store keeps none: then only a change of size is noticed
    is_near: bool = False

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from `start` to `end`; see `File.read`."""
        import obstore

        if start >= end:
            return b""
        options: Any = {"range": (start, end)} | ({"if_match": self.etag} if self.etag else {})
        with explained(self.name, found=True):
            result = obstore.get(self.store, self.path, options=options)
            data = bytes(result.bytes())
        if result.meta["size"] != self.size or len(data) != end - start:
            raise DataChanged(
                f"{self.name} changed since the run began ({self.size} bytes then, {result.meta['size']} now); put new data "
                "into new objects, and start the run again"
            )
        return data

    def read_ranges(self, ranges: list[tuple[int, int]]) -> list[bytes]:
        """Return several ranges; see `File.read`."""
        return [self.read(start, end) for start, end in ranges]


def open_store(url: str, options: Mapping[str, str]) -> tuple[ObjectStore, str]:
    """Connect to the store of a URL; nothing is sent yet.

    Args:
        options: As obstore names them, such as `aws_access_key_id`, `aws_endpoint`, `google_service_account`.
    Returns:
        The store, and the path of the URL in it.
    Raises:
        DataUnreadable: The URL or an option is none that obstore knows.
    """
    needed("obstore", f"reading {url}")
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")  # by hand: to urlsplit a `?` in a pattern begins a query
    plain = scheme == "http" or any(value.startswith("http://") for value in options.values())
    config: Any = None if scheme.startswith("http") else dict(options)
    try:
        store = from_url(
            f"{scheme}://{host}/",
            config=config,
            client_options={"allow_http": plain, "connect_timeout": "10s", "timeout": "120s"},
            retry_config={"max_retries": _RETRIES, "retry_timeout": _RETRY_S},
        )
    except (BaseError, ValueError, TypeError) as error:
        raise DataUnreadable(f"{url} cannot be opened: {_first_line(error)}") from error
    return store, path


def find_object(store: ObjectStore, path: str, url: str) -> ObjectFile | None:
    """Look at one object; None if there is none."""
    import obstore

    try:
        with explained(url):
            meta = obstore.head(store, path)
    except FileNotFoundError:
        return None
    return ObjectFile(store, path, url, meta["size"], meta["e_tag"])


def list_objects(store: ObjectStore, prefix: str, base: str) -> Iterator[ObjectFile]:
    """Yield all objects below a prefix, which ends where a name ends; `base` is the URL of the store."""
    import obstore

    with explained(f"{base}/{prefix}"):
        for page in obstore.list(store, prefix or None):
            for meta in page:
                yield ObjectFile(store, meta["path"], f"{base}/{meta['path']}", meta["size"], meta["e_tag"])


@contextmanager
def explained(name: str, *, found: bool = False) -> Iterator[None]:
    """Say in our errors what obstore raises within; `found` says that the object was there before."""
    from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError

    try:
        yield
    except FileNotFoundError as error:
        if not found:
            raise
        raise DataChanged(
            f"{name} was there when the run began, and now it is not; leave the data in place"
        ) from error
    except PreconditionError as error:
        raise DataChanged(
            f"{name} changed since the run began; put new data into new objects, and start the run again"
        ) from error
    except (PermissionDeniedError, UnauthenticatedError) as error:
        raise DataUnreadable(
            f"{name} may not be read: {_first_line(error)}; give the node HEADRACE_<SERVICE>_OBJECT_STORAGE_FILE, or the data "
            "`storage`"
        ) from error
    except (BaseError, OSError) as error:
        raise Unavailable(f"{name} cannot be reached: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
