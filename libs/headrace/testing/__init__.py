"""Tools for tests: a clock that is moved by hand, a real server on a free loopback port, a wait with a bound."""

from headrace.rpc.ports import free_port
from headrace.testing.clock import FakeClock
from headrace.testing.patience import until
from headrace.testing.server import handler, serve

__all__ = ["FakeClock", "free_port", "handler", "serve", "until"]
