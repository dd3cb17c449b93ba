"""The help of every command, its examples, and the page made of it."""

import shlex

import pytest
import typer

from headrace.cli.app import build
from headrace.cli.examples import EXAMPLES
from headrace.cli.session import hoist
from tools.cli_reference import TARGET, help_of, reference

MUST = [
    *("up", "train", "optimize", "deploy", "undeploy", "predict", "jobs", "models", "nodes", "demo"),
    *("job watch", "job cancel", "job explain", "job reshard", "job show", "model show", "model alias"),
    *("node drain", "node resume", "deployments", "version"),
]
LISTS = ["jobs", "models", "nodes", "deployments", "model versions"]


@pytest.mark.parametrize("command", MUST)
def test_every_command_shows_examples(command: str) -> None:
    text = help_of(command)

    assert text.startswith(f"Usage: headrace {command}")
    for example in EXAMPLES[command]:
        assert f"    {example}" in text


@pytest.mark.parametrize("example", [line for lines in EXAMPLES.values() for line in lines])
def test_every_example_can_be_read(example: str) -> None:
    """Parsing alone: nothing of it runs."""
    group = typer.main.get_command(build())
    name, arguments = None, hoist(shlex.split(example)[1:])
    context = group.make_context("headrace", arguments)
    while hasattr(group, "resolve_command"):
        name, group, arguments = group.resolve_command(context, [*context._protected_args, *context.args])
        context = group.make_context(name, list(arguments), parent=context)


@pytest.mark.parametrize("command", LISTS)
def test_every_list_has_json(command: str) -> None:
    assert "--json" in help_of(command)


def test_the_page_about_the_command_line_says_what_help_says() -> None:
    """If this fails, run `python tools/cli_reference.py`."""
    assert TARGET.read_text() == reference()
