"""Errors on the command line: one line that says what to do, after the log it is about, if there is one."""

from __future__ import annotations

from headrace.errors import HeadraceError, Unavailable

FAILED = 1
INTERRUPTED = 130  # as a shell says it of SIGINT


def error_lines(error: HeadraceError, address: str) -> list[str]:
    """Return the lines to print for an error; the last one is the error itself.

    Args:
        address: Where the scheduler was looked for.
    """
    if isinstance(error, Unavailable) and error.metadata.get("address") == address:
        hint = "start one with `headrace up`, or name another with --address host:port"
        return [f"error: no headrace answers at {address}; {hint}"]
    first, *more = error.message.splitlines() or [error.reason]
    return [*error.metadata.get("detail", "").splitlines(), *more, f"error: {first}"]


def usage_line(message: str, command: str) -> str:
    """Return the line to print when a command was used wrongly."""
    text = " ".join(message.split())
    text = text[:1].lower() + text[1:].rstrip(".")
    return f"error: {text}; see `{command} --help`"


def world_line(error: OSError) -> str:
    """Return the line to print when this machine refused something: a folder, a file, a full disk."""
    what = f"cannot use {error.filename}" if error.filename else "this machine refused"
    return f"error: {what}: {error.strerror or error}; make it usable, or choose another"
