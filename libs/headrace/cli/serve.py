"""`headrace deploy`, `undeploy`, `deployments` and `predict`."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace.cli.options import AsJson, Pool
from headrace.cli.session import connected

DeploymentName = Annotated[str, typer.Argument(help="Name of the deployment.")]


def deploy(
    context: typer.Context,
    name: DeploymentName,
    version: Annotated[str, typer.Argument(help="digits (the newest version), digits@stable or digits/3.")],
    file: Annotated[str, typer.Option(help="The version's file to serve; left out: its own choice.")] = "",
    replicas: Annotated[int, typer.Option(help="Inference nodes that serve it.", min=1)] = 1,
    timeout: Annotated[float, typer.Option(help="Seconds to wait until it is served.", min=0)] = 300.0,
    pool: Pool = "",
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait until it is served.")] = False,
    as_json: AsJson = False,
) -> None:
    """Serve a version under a name.

    A deployment of that name moves to the version, and goes on serving meanwhile.
    """
    from headrace.cli import screen
    from headrace.cli.views.deployments import deployed

    with connected(context) as client:
        deployment = client.deploy(
            name, version, file, replicas, pool=pool, wait=not detach, timeout_s=timeout
        )
    if as_json:
        screen.show_json(deployment)
    else:
        screen.say(deployed(deployment))


def undeploy(context: typer.Context, name: DeploymentName) -> None:
    """Stop serving a deployment."""
    from headrace.cli import screen

    with connected(context) as client:
        client.undeploy(name)
    screen.say(f"{name} is no longer served")


def deployments(context: typer.Context, as_json: AsJson = False) -> None:
    """List the deployments and where they are served."""
    from headrace.cli import screen
    from headrace.cli.views.deployments import deployments_table

    with connected(context) as client:
        found = client.list_deployments()
    if as_json:
        screen.show_json(found)
    else:
        screen.show(deployments_table(found))


def predict(
    context: typer.Context,
    name: DeploymentName,
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input",
            metavar="NAME=VALUE",
            help="One input: x=[[1,2],[3,4]] (JSON), x=@file.npy or x=@file.json; may be repeated.",
        ),
    ],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the answer.", min=0)] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Send one request to a deployment and print the answer."""
    from headrace.cli import screen
    from headrace.cli.arrays import read_inputs
    from headrace.cli.views.deployments import answer_json, answer_lines

    with connected(context) as client:
        arrays = read_inputs(inputs, lambda: client.metadata(name, timeout_s=timeout).inputs)
        outputs = client.predict(name, arrays, timeout_s=timeout)
    if as_json:
        screen.show_json({"deployment": name, "outputs": answer_json(outputs)}, indent=None)
        return
    for line in answer_lines(outputs):
        screen.say(line)
