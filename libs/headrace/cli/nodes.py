"""`headrace nodes` and `headrace node ...`."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.options import AsJson
from headrace.cli.session import connected

NodeName = Annotated[str, typer.Argument(help="Name of the node.")]


def nodes(context: typer.Context, as_json: AsJson = False) -> None:
    """List the nodes and what they do."""
    from headrace.cli import screen
    from headrace.cli.views.nodes import nodes_table

    with connected(context) as client:
        found = client.list_nodes()
    if as_json:
        screen.show_json(found)
    else:
        screen.show(nodes_table(found))


def drain(context: typer.Context, node: NodeName, as_json: AsJson = False) -> None:
    """Give a node no new work; what it has goes on."""
    from headrace.cli import screen

    with connected(context) as client:
        found = client.drain(node)
    if as_json:
        screen.show_json(found)
    else:
        left = len(found.work) + len(found.models)
        screen.say(f"{node} gets no new work; what it has goes on: {left or 'nothing'}")


def resume(context: typer.Context, node: NodeName, as_json: AsJson = False) -> None:
    """Give a drained node work again."""
    from headrace.cli import screen

    with connected(context) as client:
        found = client.resume(node)
    if as_json:
        screen.show_json(found)
    else:
        screen.say(f"{node} takes work again")
