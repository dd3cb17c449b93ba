"""The check that every setting goes through."""

import math

from headrace.errors import InvalidArgument


def check(field: str, value: float, bounds: str, holds: bool) -> None:
    """Raise InvalidArgument, naming `field` and its `bounds`, unless `value` is finite and the bounds hold."""
    if not holds or not math.isfinite(value):
        raise InvalidArgument(f"{field} is {value}; it must be {bounds}", field=field)
