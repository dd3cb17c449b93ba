"""All commands, and how one is run: errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from headrace.cli import about, demo, inspect, jobs, models, nodes, serve, train, up
from headrace.cli.examples import epilog
from headrace.cli.failures import FAILED, INTERRUPTED, error_lines, usage_line, world_line
from headrace.cli.session import ADDRESS, Session, hoist
from headrace.errors import HeadraceError

_TOP: Sequence[Callable[..., Any]] = (
    demo.demo,
    up.up,
    train.train,
    train.optimize,
    serve.deploy,
    serve.undeploy,
    serve.predict,
    jobs.jobs,
    models.models,
    serve.deployments,
    nodes.nodes,
    about.version,
)
_GROUPS: Sequence[tuple[str, str, Sequence[Callable[..., Any]]]] = (
    (
        "job",
        "Watch, cancel, explain, reshard or show one job, and look at its workers.",
        (
            jobs.watch,
            jobs.cancel,
            jobs.explain,
            jobs.reshard,
            jobs.show,
            inspect.logs,
            inspect.metrics,
            inspect.stacks,
            inspect.profile,
        ),
    ),
    (
        "model",
        "Show one model's versions, move its aliases, fetch its files.",
        (models.show, models.versions, models.alias, models.download),
    ),
    ("node", "Drain or resume one node.", (nodes.drain, nodes.resume)),
)


def build() -> typer.Typer:
    """Return the app. Help is plain text: it reads the same on a terminal and in a file."""
    app = _typer("Train models on many workers, make them small and fast, and serve them.")
    app.callback()(_begin)
    for function in _TOP:
        _add(app, function.__name__, function.__name__, function)
    for group, help_text, functions in _GROUPS:
        part = _typer(help_text)
        for function in functions:
            _add(part, function.__name__, f"{group} {function.__name__}", function)
        app.add_typer(part, name=group)
    return app


def _typer(help_text: str) -> typer.Typer:
    return typer.Typer(help=help_text, rich_markup_mode=None, add_completion=False, no_args_is_help=True)


def _add(app: typer.Typer, name: str, path: str, function: Callable[..., Any]) -> None:
    app.command(name, epilog=epilog(path))(function)


def _begin(
    context: typer.Context,
    address: Annotated[
        str, typer.Option(envvar="HEADRACE_ADDRESS", help="host:port of the scheduler.")
    ] = ADDRESS,
    project: Annotated[str, typer.Option(envvar="HEADRACE_PROJECT", help="Where names belong.")] = "default",
) -> None:
    context.obj = Session(address, project)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return the exit code: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    # gRPC's own log lines would stand beside our one line; whoever wants them sets this.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    args = hoist(arguments)
    try:
        code = int(build()(args, prog_name="headrace", standalone_mode=False) or 0)
        sys.stdout.flush()  # here a reader that has gone is no surprise; at exit it would be
        return code
    except HeadraceError as error:
        return _fail(FAILED, *error_lines(error, _address(args)))
    except typer.TyperException as error:
        return _wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _fail(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        # Whoever read us has gone (`headrace jobs | head`); a second error at exit would help nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _fail(FAILED, world_line(error))


def _wrong_usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "headrace"
    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message())
        return 0
    return _fail(error.exit_code, usage_line(error.format_message(), command))


def _fail(code: int, *lines: str) -> int:
    for line in lines:
        print(line, file=sys.stderr)
    return code


def _address(args: Sequence[str]) -> str:
    """Return the address the command was about, as far as the arguments tell."""
    for index, word in enumerate(args):
        if word == "--address" and index + 1 < len(args):
            return args[index + 1]
        if word.startswith("--address="):
            return word.partition("=")[2]
    return os.environ.get("HEADRACE_ADDRESS", ADDRESS)
