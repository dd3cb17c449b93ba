"""`host:port` addresses."""

import ipaddress


def split_address(address: str) -> tuple[str, int]:
    """Cut `host:port`, `[::1]:port` included, into its parts.

    Raises:
        ValueError: It is not one; the message says how one looks.
    """
    host, colon, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not colon or not bare or not port.isdecimal() or int(port) > 65535 or (":" in bare) != bracketed:
        raise ValueError(
            "must be host:port with a port from 0 to 65535, such as 127.0.0.1:8471 or [::1]:8471"
        )
    return bare, int(port)


def join_address(host: str, port: int) -> str:
    """Put an address together; an IPv6 host gets its brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(address: str) -> bool:
    """Tell whether only this machine can reach `address`.

    Raises:
        ValueError: It is not `host:port`.
    """
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
