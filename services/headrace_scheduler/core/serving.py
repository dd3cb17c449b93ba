"""Deployments: from what is wished to what inference nodes hold, one step at a time."""

from collections.abc import Iterator
from dataclasses import replace

from headrace_scheduler.core import reasons
from headrace_scheduler.core.commands import Command, LoadModel, Target, UnloadModel
from headrace_scheduler.core.deployments import Deployment, DeploymentState, Hosted, Replica, hosted_key
from headrace_scheduler.core.jobs import Failure
from headrace_scheduler.core.nodes import Node, NodeKind
from headrace_scheduler.core.tables import Tables

# The node, not the version, is the trouble: the same load may work soon. Everything else fails the deployment until it changes.
WORTH_ANOTHER_TRY = frozenset(
    {
        reasons.ABORTED,
        reasons.CANCELLED,
        reasons.DEADLINE_EXCEEDED,
        reasons.INTERNAL,
        reasons.RESOURCE_EXHAUSTED,
        reasons.SERVER_DRAINING,
        reasons.STORAGE_FULL,
        reasons.TOO_MANY_CALLS,
        reasons.UNAVAILABLE,
        reasons.UNKNOWN,
    }
)


def reconcile(tables: Tables, now: float, lease_s: float) -> None:
    """Choose nodes for replicas that have none, give up superfluous ones, and say how each deployment does."""
    _release(tables)
    for deployment in sorted(tables.deployments.values(), key=lambda deployment: deployment.sequence):
        hosts = hosts_of(tables, deployment)
        _trim(tables, deployment, hosts)
        if len(hosts) < deployment.replicas:
            _extend(tables, deployment, deployment.replicas - len(hosts), now, lease_s)
        tables.put_deployment(_with_state(tables, deployment))


def hosts_of(tables: Tables, deployment: Deployment) -> list[Hosted]:
    """List where a deployment is wanted, by node."""
    found = [host for host in tables.hosted.values() if host.deployment == deployment.name and host.wanted]
    return sorted(found, key=lambda host: host.node)


def _release(tables: Tables) -> None:
    """Want nothing of lost nodes, or for deployments that are gone; forget what went with its process."""
    for host in list(tables.hosted.values()):
        node = tables.nodes.get(host.node)
        if node is None or (node.incarnation != host.incarnation):
            tables.hosted.remove(host.key)
        elif host.wanted and (node.lost or host.deployment not in tables.deployments):
            tables.hosted.put(host.key, replace(host, wanted=False))


def _trim(tables: Tables, deployment: Deployment, hosts: list[Hosted]) -> None:
    ready_first = sorted(hosts, key=lambda host: (not _is_ready(tables, deployment, host), host.node))
    for host in ready_first[deployment.replicas :]:
        tables.hosted.put(host.key, replace(host, wanted=False))


def _extend(tables: Tables, deployment: Deployment, missing: int, now: float, lease_s: float) -> None:
    candidates = [
        node
        for node in tables.nodes.values()
        if node.kind is NodeKind.INFERENCE
        and node.pool == deployment.pool
        and not node.refusal(now, lease_s)
        and _has_room(tables, node, deployment)
    ]
    candidates.sort(key=lambda node: (len(_models_on(tables, node)), node.name))
    for node in candidates[:missing]:
        host = Hosted(node.name, deployment.model, deployment.name, node.incarnation)
        tables.hosted.put(host.key, host)


def _has_room(tables: Tables, node: Node, deployment: Deployment) -> bool:
    """Tell whether the node can take the model: it is being unloaded there, or there is a slot for it."""
    there = tables.hosted.get(hosted_key(node.name, deployment.model))
    if there:
        return not there.wanted
    others = _models_on(tables, node) - {deployment.model}
    return len(others) < node.slots


def _models_on(tables: Tables, node: Node) -> set[str]:
    placed = {host.model for host in tables.hosted.values() if host.node == node.name}
    return placed | {model.model for model in node.models}


def _is_ready(tables: Tables, deployment: Deployment, host: Hosted) -> bool:
    """Tell whether the node says it answers with the wished version."""
    node = tables.nodes.get(host.node)
    return node is not None and any(
        served.ready
        and (served.model, served.version) == (deployment.model, deployment.resolved_version)
        and served.file == deployment.resolved_file
        for served in node.models
        if not node.lost
    )


def _with_state(tables: Tables, deployment: Deployment) -> Deployment:
    serving = tuple(
        Replica(host.node, tables.nodes[host.node].address, _is_ready(tables, deployment, host))
        for host in hosts_of(tables, deployment)
    )
    if deployment.failure:
        state = DeploymentState.FAILED
    elif sum(replica.ready for replica in serving) >= deployment.replicas:
        state = DeploymentState.READY
    else:
        state = DeploymentState.PROGRESSING
    return replace(deployment, state=state, serving=serving)


def commands_for(tables: Tables, host: Hosted) -> Iterator[Command]:
    """List what one place of a model needs now."""
    node = tables.nodes[host.node]
    deployment = tables.deployments.get(host.deployment)
    if node.lost:
        return
    target = Target(node.name, node.address)
    if not host.wanted:
        yield UnloadModel(target, host.deployment, host.model)
    elif deployment and not deployment.failure and not _is_loaded(host, deployment):
        version, file = deployment.resolved_version, deployment.resolved_file
        yield LoadModel(target, deployment.name, host.model, version, file)


def _is_loaded(host: Hosted, deployment: Deployment) -> bool:
    return (host.loaded_version, host.loaded_file) == (deployment.resolved_version, deployment.resolved_file)


def answered(tables: Tables, command: LoadModel | UnloadModel, failure: Failure | None, now: float) -> None:
    """Take over the answer to a load or unload."""
    host = tables.hosted.get(hosted_key(command.target.node, command.model))
    if host is None or host.deployment != command.deployment:
        return
    if isinstance(command, UnloadModel):
        if not host.wanted and (failure is None or failure.reason == reasons.NOT_FOUND):
            tables.hosted.remove(host.key)
    elif failure is None:
        loaded = replace(host, loaded_version=command.version, loaded_file=command.file, loaded_time=now)
        tables.hosted.put(host.key, loaded)
    else:
        _load_failed(tables, command, failure)


def _load_failed(tables: Tables, command: LoadModel, failure: Failure) -> None:
    deployment = tables.deployments.get(command.deployment)
    wished = deployment and (deployment.resolved_version, deployment.resolved_file)
    if deployment and wished == (command.version, command.file) and failure.reason not in WORTH_ANOTHER_TRY:
        where = replace(failure, message=f"{command.target.node} cannot serve it: {failure.message}")
        tables.put_deployment(replace(deployment, failure=where))


def reported(tables: Tables, node: Node, now: float, lease_s: float) -> None:
    """Notice models that a node was told to load and has no more; a report may be older than the load by less than a lease."""
    for host in list(tables.hosted.values()):
        if host.node != node.name or not host.loaded_version or now - host.loaded_time <= lease_s:
            continue
        served = {(model.model, model.version, model.file) for model in node.models}
        if (host.model, host.loaded_version, host.loaded_file) not in served:
            tables.hosted.put(host.key, replace(host, loaded_version="", loaded_file=""))
