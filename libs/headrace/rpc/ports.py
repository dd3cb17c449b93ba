"""Ports for processes that are told theirs before they listen, and come back to it when they are started again."""

import os
import socket
from collections.abc import Sequence
from itertools import count
from pathlib import Path

_FIRST = 10_240  # below are those that people know
_LEAST = 4_096  # of a range, so that processes seldom choose the same
_APART = 211  # ports from where one process begins to choose to where the next one does
_GIVEN_OUT = Path("/proc/sys/net/ipv4/ip_local_port_range")
_turns = count()


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on, another one each time.

    Where there is room it is none of those that the system gives to connections, and to whoever asks for any: such a port may be taken
    before its process listens, or while that is being started again.
    """
    ports = ports_beside(_given_out())
    for _ in ports:
        port = ports[(os.getpid() * _APART + next(_turns)) % len(ports)]
        if _is_free(port):
            return port
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def ports_beside(given_out: range) -> Sequence[int]:
    """Return ports that are not given out, and many; none if there are too few."""
    below, above = range(_FIRST, given_out.start), range(max(_FIRST, given_out.stop), 1 << 16)
    return next((ports for ports in (below, above) if len(ports) >= _LEAST), range(0))


def _given_out() -> range:
    """Return the ports that the system gives to connections."""
    try:
        first, last = map(int, _GIVEN_OUT.read_text().split())
    except (OSError, ValueError):  # not Linux: what the IANA leaves to it
        first, last = 49_152, 65_535
    return range(first, last + 1)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
