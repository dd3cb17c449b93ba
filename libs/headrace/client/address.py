"""The one address a person gives."""

from __future__ import annotations

from headrace.errors import InvalidArgument
from headrace.rpc.addresses import split_address


def checked_address(address: str) -> str:
    """Return `address` if it is `host:port`.

    Raises:
        InvalidArgument: It is not.
    """
    try:
        split_address(address)
    except ValueError as error:
        raise InvalidArgument(f"address {address!r} {error}", field="address") from None
    return address
