"""`headrace demo`: the whole road, once, on this machine."""

from __future__ import annotations

import tempfile
import threading
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headrace.cli.options import AsJson

if TYPE_CHECKING:
    from rich.console import Console

    from headrace.demo.result import DemoResult
    from headrace.local.supervisor import Supervisor


def demo(
    example: Annotated[Literal["digits", "tabular", "text"], typer.Option(help="What to train.")] = "digits",
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running until Ctrl-C.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for data, logs and the report.  [default: a new one]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train, optimize, deploy and measure an example, end to end.

    Starts everything it needs on free ports of this machine, and stops it at the end.
    """
    from headrace.cli import screen
    from headrace.cli.interruption import end_on_sigterm
    from headrace.demo.tables import print_result
    from headrace.folder import claimed

    end_on_sigterm()
    folder = data_dir or Path(tempfile.mkdtemp(prefix="headrace-demo-"))
    console = screen.err() if as_json else screen.out()
    console.print(f"data, logs and reports go to {folder}")
    with ExitStack() as running:
        running.enter_context(claimed(folder))
        supervisor, result = _run(example, folder, console, running, keep=keep)
        if as_json:
            screen.show_json(result.as_json())
        else:
            print_result(result, console, kept=keep)
        if keep:
            with suppress(KeyboardInterrupt):
                supervisor.wait(threading.Event())


def _run(
    example: str, folder: Path, console: Console, running: ExitStack, *, keep: bool
) -> tuple[Supervisor, DemoResult]:
    """Run the demo; its services stay up until `running` is left."""
    from headrace.cli.interruption import stopping
    from headrace.cli.progress import job_display
    from headrace.demo.run import Demo
    from headrace.local.plan import Sizes

    with job_display(console) as on_job:
        demo = Demo(example, folder, Sizes(), console.print, on_job)
        supervisor = demo.start()
        with demo.stage("starting"):
            running.enter_context(stopping(supervisor))
        result = demo.run(supervisor)
    if not keep:  # after a failure everything stays, to be looked at
        supervisor.stop()
        demo.clean()
    return supervisor, result
