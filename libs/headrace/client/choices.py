"""One of several, by the name that people give it."""

from collections.abc import Mapping
from typing import TypeVar

from headrace.errors import InvalidArgument

Choice = TypeVar("Choice")


def choose(field: str, chosen: str, choices: Mapping[str, Choice]) -> Choice:
    """Return what stands for `chosen`; InvalidArgument names the choices if it is none of them."""
    if chosen not in choices:
        *others, last = map(repr, choices)
        known = f"{', '.join(others)} or {last}" if others else last
        raise InvalidArgument(f"{field} {chosen!r} is unknown; use {known}", field=field)
    return choices[chosen]
