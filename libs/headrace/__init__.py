"""Everything a caller of headrace needs, and the bootstrap that every service shares.

import headrace
client = headrace.connect("127.0.0.1:8470")
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` gives, for type checkers and editors
    from headrace import errors
    from headrace.client import connect, connect_async

    __version__: str

__all__ = ["__version__", "connect", "connect_async", "errors"]


def __getattr__(name: str) -> Any:
    """Import what is asked for only now: `import headrace` alone loads nothing."""
    if name in ("connect", "connect_async"):
        from headrace import client

        return getattr(client, name)
    if name == "errors":
        import importlib

        return importlib.import_module("headrace.errors")
    if name == "__version__":
        from importlib.metadata import version

        return version("headrace")
    raise AttributeError(f"module 'headrace' has no attribute {name!r}")
