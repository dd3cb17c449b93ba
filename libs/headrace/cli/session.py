"""The global options, and the client they lead to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from headrace.client import Client

ADDRESS = "127.0.0.1:8470"
GLOBAL_OPTIONS = ("--address", "--project")


@dataclass(frozen=True)
class Session:
    """Which headrace, and which project in it."""

    address: str
    project: str

    def command(self, *words: str) -> str:
        """Return a command line that does `words` in this session."""
        chosen = [] if self.address == ADDRESS else ["--address", self.address]
        chosen += [] if self.project == "default" else ["--project", self.project]
        return " ".join(["headrace", *chosen, *words])


def session(context: typer.Context) -> Session:
    """Return the session of a command."""
    found = context.obj
    assert isinstance(found, Session), "the callback of the app makes it"
    return found


@contextmanager
def connected(context: typer.Context) -> Iterator[Client]:
    """Give a client of the session, whose calls Ctrl-C ends."""
    from headrace.cli.interruption import interruptible
    from headrace.client import connect

    chosen = session(context)
    with connect(chosen.address, chosen.project) as client, interruptible(client.close):
        yield client


def hoist(arguments: Sequence[str]) -> list[str]:
    """Move the global options to the front, so that a person may say them anywhere before a `--`."""
    front: list[str] = []
    rest: list[str] = []
    remaining = list(arguments)
    while remaining and remaining[0] != "--":
        word = remaining.pop(0)
        if word in GLOBAL_OPTIONS:
            front += [word, *remaining[:1]]
            del remaining[:1]
        else:
            (front if word.startswith(tuple(f"{name}=" for name in GLOBAL_OPTIONS)) else rest).append(word)
    return [*front, *rest, *remaining]
