"""What goes to standard output, and how: for a person at a terminal, for a file, or as JSON for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from headrace.cli.views.table import Table

if TYPE_CHECKING:
    from rich.console import Console

_NO_CUT = 1_000_000  # columns; a file has no width, so nothing is cut or wrapped


@cache
def out() -> Console:
    """Return standard output."""
    return _console(sys.stdout.isatty(), stderr=False)


@cache
def err() -> Console:
    """Return standard error."""
    return _console(sys.stderr.isatty(), stderr=True)


def _console(terminal: bool, *, stderr: bool) -> Console:
    from rich.console import Console

    # Without markup and highlighting, text is shown as it is: a name may hold brackets.
    width = None if terminal else _NO_CUT
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True, width=width)


def say(line: str) -> None:
    """Print a line."""
    out().print(line)


def show(table: Table) -> None:
    """Print a table, or what it says when it is empty."""
    if not table.rows:
        say(table.empty or "nothing")
        return
    with out().capture() as captured:
        out().print(drawn(table), soft_wrap=False)
    for line in captured.get().splitlines():
        print(line.rstrip())


def drawn(table: Table) -> Any:
    """Return the table as rich draws it: no frame, so that it is as easy to cut as to read."""
    from rich.table import Table as RichTable

    grid = RichTable(box=None, pad_edge=False, show_header=any(table.columns), header_style="bold")
    for column in table.columns:
        grid.add_column(
            column.lstrip(">").upper(), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    for row in table.rows:
        grid.add_row(*row)
    return grid


def as_data(message: Message) -> dict[str, Any]:
    """Return a message as proto JSON with the field names of the proto; unset plain fields are there too."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def show_json(value: Message | Sequence[Message] | dict[str, Any], *, indent: int | None = 2) -> None:
    """Print JSON: an object, or an array of objects."""
    if isinstance(value, Message):
        data: Any = as_data(value)
    elif isinstance(value, dict):
        data = value
    else:
        data = [as_data(message) for message in value]
    print(json.dumps(data, indent=indent, ensure_ascii=False))
