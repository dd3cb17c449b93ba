"""`headrace models` and `headrace model ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import AsJson
from headrace.cli.session import connected


def models(context: typer.Context, as_json: AsJson = False) -> None:
    """List the models."""
    from headrace.cli import screen
    from headrace.cli.views.models import models_table

    with connected(context) as client:
        found = client.models()
    if as_json:
        screen.show_json(found)
    else:
        screen.show(models_table(found))


def versions(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    as_json: AsJson = False,
) -> None:
    """List a model's versions, newest first."""
    from headrace.cli import screen
    from headrace.cli.views.models import versions_table
    from headrace.client.naming import model_name

    with connected(context) as client:
        found = client.registry.get_model(model_name(client.project, model))
        of_model = client.versions(model)
    if as_json:
        screen.show_json(of_model)
    else:
        screen.show(versions_table(found, of_model))


def show(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="digits (the newest version), digits@stable or digits/3.")],
    as_json: AsJson = False,
) -> None:
    """Show everything about a version: measures, where it came from, files."""
    from headrace.cli import screen
    from headrace.cli.views.models import files_table, version_facts

    with connected(context) as client:
        found = client.version(version)
    if as_json:
        screen.show_json(found)
        return
    screen.show(version_facts(found))
    screen.say("")
    screen.show(files_table(found))


def alias(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    alias: Annotated[str, typer.Argument(help="The alias, such as stable.")],
    version: Annotated[
        str, typer.Argument(help="Number of the version to point to; left out: the alias is removed.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Point an alias of a model to a version, or remove it."""
    from headrace.cli import screen

    target = f"{model}/{version}" if version.isdecimal() else version
    with connected(context) as client:
        found = client.set_alias(model, alias, target)
    if as_json:
        screen.show_json(found)
    else:
        screen.say(f"{model}@{alias} is version {version}" if version else f"{model}@{alias} is removed")


def download(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="digits (the newest version), digits@stable or digits/3.")],
    folder: Annotated[Path, typer.Argument(help="Folder to write the files into; made when missing.")],
    as_json: AsJson = False,
) -> None:
    """Write the files of a version into a folder."""
    from headrace.cli import screen

    with connected(context) as client:
        paths = client.download(version, folder)
    if as_json:
        screen.show_json({"files": [str(path) for path in paths]})
        return
    for path in paths:
        screen.say(str(path))
