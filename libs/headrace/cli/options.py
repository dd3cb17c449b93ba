"""Options that more than one command has, and how their values are read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from headrace.errors import InvalidArgument

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Detach = Annotated[bool, typer.Option("--detach", help="Submit the job and do not wait for it.")]
Pool = Annotated[str, typer.Option(help="Pool of nodes to run in.  [default: default]", show_default=False)]
JobId = Annotated[str, typer.Option("--name", help="Name of the job; one is made up when missing.")]


def read_config(pairs: list[str]) -> dict[str, Any]:
    """Read `key=value` pairs; a value that is JSON means that, any other one is text.

    Raises:
        InvalidArgument: One has no `=`.
    """
    config: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InvalidArgument(
                f"--config {pair!r} cannot be read; say it like --config width=64", field="config"
            )
        try:
            config[key] = json.loads(value)
        except ValueError:
            config[key] = value
    return config
