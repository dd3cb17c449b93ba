"""`headrace version`."""

from __future__ import annotations

from importlib.metadata import version as installed

import typer

from headrace.cli.options import AsJson
from headrace.cli.session import connected, session


def version(context: typer.Context, as_json: AsJson = False) -> None:
    """Show the versions of this command and of the server."""
    from headrace.cli import screen
    from headrace.errors import HeadraceError
    from headrace.scheduler.v1.cluster_pb2 import GetClusterRequest

    server: str | None
    try:
        with connected(context) as client:
            server = client.cluster.GetCluster(GetClusterRequest(), timeout=2).server_version
    except HeadraceError:  # nobody there is an answer too
        server = None
    if as_json:
        screen.show_json({"client": installed("headrace"), "server": server})
        return
    screen.say(f"headrace {installed('headrace')}")
    screen.say(f"{session(context).address}: {server or 'no headrace answers'}")
