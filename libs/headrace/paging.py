"""Pages of a list, by AIP-158: a token says where the next page begins and which list it belongs to."""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.errors import InvalidArgument

DEFAULT_PAGE_SIZE = 50
MAX_PAGE_SIZE = 1000  # more is silently cut, as AIP-158 asks
_MAX_NUMBER = 10**18  # of a key: as in `headrace.names`, it fits every database's integers

Key = tuple[str | int | float, ...]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Page(Generic[Item]):
    """Some items of a list, and the token of the next page; empty on the last one."""

    items: Sequence[Item]
    next_page_token: str


@dataclass(frozen=True)
class PageRequest:
    """Which page is asked for.

    Read one more row than `size` after the key `after`, in the order of the key, and give them to `page`.
    """

    size: int
    after: Key | None
    _list_digest: str

    @classmethod
    def parse(cls, page_size: int, page_token: str, *list_identity: str) -> "PageRequest":
        """Check what came from outside.

        Args:
            page_size: 1 to `MAX_PAGE_SIZE` (more is cut); 0 means `DEFAULT_PAGE_SIZE`.
            page_token: From a former page of the same list, or empty for the first page.
            list_identity: What the list depends on: method, parent, filter, order.
        Raises:
            InvalidArgument: The size is negative, or the token is damaged or belongs to another list.
        """
        if page_size < 0:
            raise InvalidArgument(
                f"page_size {page_size} is negative; use 1 to {MAX_PAGE_SIZE}", field="page_size"
            )
        digest = _digest(list_identity)
        after = _read_token(page_token, digest) if page_token else None
        return cls(min(page_size or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE), after, digest)

    def after_text(self) -> str | None:
        """Return the text after which the page begins, for a list whose key is one; None for the first page.

        Raises:
            InvalidArgument: The key is another; a token is only text that somebody sent.
        """
        match self.after:
            case None:
                return None
            case (str(key),) if "\0" not in key:  # not every database can compare with NUL
                return key
        raise _foreign_token()

    def after_number(self) -> int | None:
        """Return the number after which the page begins; as `after_text`, but 0 to 10**18."""
        match self.after:
            case None:
                return None
            case (int(key),) if 0 <= key <= _MAX_NUMBER:
                return key
        raise _foreign_token()

    @property
    def limit(self) -> int:
        """How many rows to read: one more than the page holds, to know whether another follows."""
        return self.size + 1

    def page(self, rows: Sequence[Item], key: Callable[[Item], Key]) -> Page[Item]:
        """Cut `rows` (at most `limit` of them, after `after`, ordered by `key`) to a page."""
        if len(rows) <= self.size:
            return Page(rows, "")
        return Page(rows[: self.size], _write_token(key(rows[self.size - 1]), self._list_digest))

    def page_of_all(
        self, rows: Sequence[Item], key: Callable[[Item], Key], *, descending: bool = False
    ) -> Page[Item]:
        """Cut a page out of the whole list `rows`, which is ordered by `key`.

        Raises:
            InvalidArgument: The token's key is of another kind than the rows'.
        """
        after = self.after
        if after is not None:
            try:
                rows = [row for row in rows if (key(row) < after if descending else key(row) > after)]
            except TypeError:
                raise _foreign_token() from None
        return self.page(rows[: self.limit], key)


def _digest(list_identity: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list_identity).encode()).hexdigest()[:16]


def _write_token(key: Key, digest: str) -> str:
    return base64.urlsafe_b64encode(json.dumps([digest, *key]).encode()).decode()


def _read_token(token: str, digest: str) -> Key:
    try:
        found, *key = json.loads(base64.b64decode(token.encode(), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise _foreign_token() from None
    if found != digest or not key or not all(isinstance(part, str | int | float) for part in key):
        raise _bad_token("belongs to another list")
    return tuple(key)


def _foreign_token() -> InvalidArgument:
    return _bad_token("is not one of this service")


def _bad_token(why: str) -> InvalidArgument:
    return InvalidArgument(
        f"page_token {why}; repeat the request that gave it with nothing changed but the token, or begin without one",
        field="page_token",
    )
