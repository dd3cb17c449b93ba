"""`headrace up`: all of headrace on this machine."""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from headrace.local.child import ProcessSpec

_PROBE_S = 1.0


def up(
    data_dir: Annotated[Path, typer.Option(help="Folder that keeps everything.")] = Path("headrace-data"),
    port: Annotated[
        int,
        typer.Option(
            help="Port of the scheduler; registry and first inference node take the next two.",
            min=0,
            max=65533,
        ),
    ] = 8470,
    workers: Annotated[int, typer.Option(help="Training nodes.", min=1)] = 2,
    shards: Annotated[int, typer.Option(help="Parameter nodes.", min=1)] = 2,
    optimizers: Annotated[int, typer.Option(help="Optimization nodes.", min=1)] = 1,
    replicas: Annotated[int, typer.Option(help="Inference nodes.", min=1)] = 1,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder that runs write TensorBoard's files to.", file_okay=False)
    ] = None,
    mlflow: Annotated[
        str,
        typer.Option(metavar="URI", help="Where runs log to MLflow: http://host:port, sqlite:////a/file."),
    ] = "",
    allow_updates: Annotated[
        str,
        typer.Option(
            metavar="MODULES",
            help="Modules, separated by commas, whose optimizers may run.",
            show_default=False,
        ),
    ] = "",
    object_storage_file: Annotated[
        Path | None,
        typer.Option(
            help="JSON file with options of the object stores that programs read data from.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Start all services on this machine; Ctrl-C stops them.

    A service that dies is started again. A second Ctrl-C kills what has not stopped yet. Data stays for the next time.
    """
    from headrace.cli import screen
    from headrace.cli.interruption import end_on_sigterm, stopping
    from headrace.folder import claimed
    from headrace.local.plan import Sizes, plan
    from headrace.local.supervisor import Supervisor

    end_on_sigterm()
    sizes = Sizes(workers, shards, optimizers, replicas)
    specs = plan(
        data_dir / "services",
        sizes,
        port=port,
        training=tracking(tensorboard, mlflow),
        allowed_updates=allow_updates,
        object_storage_file=object_storage_file,
    )
    refuse_taken_ports(specs)
    with suppress(KeyboardInterrupt), claimed(data_dir):
        screen.say(f"starting {len(specs)} processes; their logs are in {data_dir / 'logs'}")
        with stopping(Supervisor(specs, data_dir / "logs", screen.say)) as supervisor:
            screen.say(_ready(specs))
            supervisor.wait(threading.Event())
    screen.say("stopped")


def tracking(tensorboard: Path | None, mlflow: str) -> dict[str, str]:
    """Return the settings of training nodes that log there; FailedPrecondition if the package for it is missing."""
    from headrace.errors import FailedPrecondition

    settings: dict[str, str] = {}
    if tensorboard:
        settings["TENSORBOARD_DIR"] = str(tensorboard.resolve())
    if mlflow:
        settings["MLFLOW_TRACKING_URI"] = mlflow
    for package, wanted in (("tensorboard", tensorboard), ("mlflow", mlflow)):
        if wanted and find_spec(package) is None:
            raise FailedPrecondition(f"{package} is not installed; pip install 'headrace[{package}]'")
    return settings


def refuse_taken_ports(specs: Sequence[ProcessSpec]) -> None:
    """Raise FailedPrecondition if something listens already where a process shall."""
    from headrace.errors import FailedPrecondition
    from headrace.rpc.addresses import split_address

    for spec in specs:
        host, port = split_address(spec.address)
        with socket.socket() as probe:
            probe.settimeout(_PROBE_S)
            if probe.connect_ex((host, port)) == 0:
                raise FailedPrecondition(
                    f"port {port}, which {spec.name} needs, is in use, perhaps by another headrace; "
                    "stop that, or choose other ports with --port"
                )


def _ready(specs: Sequence[ProcessSpec]) -> str:
    scheduler = next(spec.address for spec in specs if spec.name == "scheduler")
    return f"ready at {scheduler}; Ctrl-C stops it"
