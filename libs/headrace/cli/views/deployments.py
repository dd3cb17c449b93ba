"""Deployments and answers for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headrace.cli.views.table import Table
from headrace.cli.views.values import NOTHING, word
from headrace.client.naming import short
from headrace.client.outcome import shortfall
from headrace.scheduler.v1.deployments_pb2 import Deployment, DeploymentState

if TYPE_CHECKING:
    import numpy as np


def state(deployment: Deployment) -> str:
    """Return the deployment's state as a word."""
    return word(DeploymentState, deployment.state, "DEPLOYMENT_STATE_")


def deployments_table(deployments: Sequence[Deployment]) -> Table:
    """Return deployments, one per row."""
    rows = [
        [
            short(one.name),
            short(one.resolved_version or one.version),
            one.file or NOTHING,
            state(one),
            f"{sum(replica.ready for replica in one.serving)}/{max(one.replicas, 1)}",
            ", ".join(replica.address for replica in one.serving if replica.ready) or NOTHING,
            f"{one.failure.reason}: {one.failure.message}" if one.HasField("failure") else shortfall(one),
        ]
        for one in deployments
    ]
    columns = ["deployment", "version", "file", "state", ">ready", "addresses", "why"]
    return Table(columns, rows, "no deployments yet; `headrace deploy --help` shows how to make one")


def deployed(deployment: Deployment) -> str:
    """Return one line about what is served now."""
    version = short(deployment.resolved_version or deployment.version)
    if not any(replica.ready for replica in deployment.serving):
        return f"{short(deployment.name)} will serve {version}; it is {state(deployment)}"
    addresses = ", ".join(replica.address for replica in deployment.serving if replica.ready)
    return f"{short(deployment.name)} serves {version} at {addresses}"


def answer_lines(outputs: Mapping[str, np.ndarray[Any, Any]]) -> list[str]:
    """Return the outputs of a model, long ones shortened."""
    lines: list[str] = []
    for name, array in outputs.items():
        lines += [f"{name}: {array.dtype} {list(array.shape)}", str(array)]
    return lines


def answer_json(outputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Any]:
    """Return the outputs of a model as plain data, complete."""
    return {
        name: {"datatype": str(array.dtype), "shape": list(array.shape), "data": _plain(array)}
        for name, array in outputs.items()
    }


def _plain(array: np.ndarray[Any, Any]) -> Any:
    """Return nested lists of what JSON has: bytes become text, numbers that are not finite their names, as in proto JSON."""
    import numpy as np

    if array.dtype.kind == "O":
        return np.array([_text(item) for item in array.ravel()], object).reshape(array.shape).tolist()
    if array.dtype.kind in "biu" or np.isfinite(array).all():
        return array.tolist()
    names = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    flat = [names.get(str(item), item) for item in array.ravel().tolist()]
    return np.array(flat, object).reshape(array.shape).tolist()


def _text(item: object) -> str:
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)
