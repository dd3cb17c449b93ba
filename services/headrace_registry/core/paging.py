"""The keys of page tokens; a token is only text that somebody sent, so its key may be of any kind."""

from headrace.errors import InvalidArgument
from headrace.paging import PageRequest
from headrace_registry.core.rules import check_text

_MAX_NUMBER = 10**18  # as in `headrace.names`: fits every database's integers


def text_key(request: PageRequest) -> str | None:
    """Return the text after which the page begins; None for the first page."""
    if request.after is None:
        return None
    match request.after:
        case (str(key),):
            return check_text(key, "page_token")
    raise _not_ours()


def number_key(request: PageRequest) -> int | None:
    """Return the number after which the page begins; None for the first page."""
    if request.after is None:
        return None
    match request.after:
        case (int(key),) if 0 <= key <= _MAX_NUMBER:
            return key
    raise _not_ours()


def _not_ours() -> InvalidArgument:
    return InvalidArgument("page_token was not made by this service; begin without one", field="page_token")
