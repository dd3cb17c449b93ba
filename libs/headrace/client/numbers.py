"""Numbers that people say, as the wire carries them."""

from typing import Literal

from headrace.errors import InvalidArgument

_LARGEST = {"uint32": (1 << 32) - 1, "uint64": (1 << 64) - 1}


def whole(field: str, value: object, *, least: int = 0, kind: Literal["uint32", "uint64"] = "uint32") -> int:
    """Return `value` if the wire can carry it; the services decide what makes sense."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= _LARGEST[kind]:
        raise InvalidArgument(
            f"{field} is {value!r}; it must be a whole number of at least {least}", field=field
        )
    return value
