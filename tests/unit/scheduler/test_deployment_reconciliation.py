"""Deployments in the core: what is wished, what nodes have, and the steps between."""

import pytest

from headrace.errors import AlreadyExists, EtagMismatch, NotFound
from headrace_scheduler.core.commands import LoadModel, UnloadModel
from headrace_scheduler.core.deployments import DeploymentState
from headrace_scheduler.core.events import DeploymentDeleted, DeploymentUpdated, NodeDrained
from headrace_scheduler.core.nodes import NodeKind, ServedModel
from tests.unit.scheduler.world import LEASE_S, PROJECT, World, cluster

NAME = f"{PROJECT}/deployments/digits"


def update(world: World, version: int = 1, replicas: int = 1, etag: str = "") -> None:
    resolved = f"{PROJECT}/models/digits/versions/{version}"
    world.handle(DeploymentUpdated(NAME, resolved, "", replicas, resolved, "int8.onnx", etag))


def serving(world: World) -> list[tuple[str, bool]]:
    return [(replica.node, replica.ready) for replica in world.deployment("digits").serving]


def test_a_deployment_is_ready_when_a_node_says_it_serves_the_version() -> None:
    world = cluster(inference=1)
    assert world.deploy("digits").state is DeploymentState.PROGRESSING
    assert [type(command) for command in world.deliver()] == [LoadModel]
    assert world.deployment("digits").state is DeploymentState.READY
    assert serving(world) == [("nodes/inference-0", True)]


def test_more_replicas_are_loaded_and_superfluous_ones_unloaded() -> None:
    world = cluster(inference=3)
    world.deploy("digits")
    world.deliver()
    update(world, replicas=3)
    assert world.deployment("digits").state is DeploymentState.PROGRESSING
    world.deliver()
    assert serving(world) == [(f"nodes/inference-{number}", True) for number in range(3)]
    update(world, replicas=1)
    assert [type(command) for command in world.deliver()] == [UnloadModel, UnloadModel]
    assert len(serving(world)) == 1


def test_a_new_version_replaces_the_old_one_in_place() -> None:
    world = cluster(inference=2)
    world.deploy("digits")
    world.deliver()
    update(world, version=2)
    assert serving(world) == [("nodes/inference-0", False)]
    assert [type(command) for command in world.deliver()] == [LoadModel]
    assert serving(world) == [("nodes/inference-0", True)]


def test_a_restarted_inference_node_gets_its_models_again() -> None:
    world = cluster(inference=1)
    world.deploy("digits")
    world.deliver()
    world.restart("inference-0")
    assert world.deployment("digits").state is DeploymentState.PROGRESSING
    world.deliver()
    assert world.deployment("digits").state is DeploymentState.READY


def test_a_lost_node_is_replaced_and_unloads_when_it_thaws() -> None:
    world = cluster(inference=2)
    world.deploy("digits")
    world.deliver()
    world.nodes["inference-0"].frozen = True
    world.pass_time(LEASE_S + 1)
    world.deliver()
    assert serving(world) == [("nodes/inference-1", True)]
    world.nodes["inference-0"].frozen = False
    world.pass_time(1)
    world.deliver()
    assert world.nodes["inference-0"].models == {}


def test_a_version_that_cannot_be_served_fails_the_deployment_until_it_changes() -> None:
    world = cluster(inference=1)
    world.deploy("digits", version=13)
    world.deliver()
    failed = world.deployment("digits")
    assert failed.state is DeploymentState.FAILED
    assert failed.failure is not None
    assert failed.failure.message == "nodes/inference-0 cannot serve it: not an ONNX model"
    world.pass_time(5)
    assert not world.pending
    update(world, version=1)
    world.deliver()
    assert world.deployment("digits").state is DeploymentState.READY


def test_a_model_that_vanished_from_its_node_is_loaded_again() -> None:
    world = cluster(inference=1)
    world.deploy("digits")
    world.deliver()
    world.nodes["inference-0"].models.clear()
    world.pass_time(LEASE_S + 1)
    assert [type(command) for command in world.deliver()] == [LoadModel]


def test_deleting_unloads_what_the_scheduler_placed_and_nothing_else() -> None:
    world = cluster(inference=1)
    world.nodes["inference-0"].models["mine"] = ServedModel("mine", "v", "f", ready=True)
    world.deploy("digits")
    world.deliver()
    world.handle(DeploymentDeleted(NAME))
    world.deliver()
    assert set(world.nodes["inference-0"].models) == {"mine"}
    assert not world.machine.tables.hosted


def test_two_projects_may_serve_models_of_one_name_on_one_node() -> None:
    world = cluster(inference=1)
    world.deploy("digits")
    world.deploy("digits", project="projects/other")
    world.deliver()
    assert set(world.nodes["inference-0"].models) == {"default/digits", "other/digits"}
    assert {row.state for row in world.machine.tables.deployments.values()} == {DeploymentState.READY}


def test_a_drained_node_keeps_its_models_and_gets_no_new_ones() -> None:
    world = cluster(inference=1)
    world.deploy("digits")
    world.deliver()
    world.handle(NodeDrained("nodes/inference-0", drained=True))
    world.deploy("text")
    world.deliver()
    assert set(world.nodes["inference-0"].models) == {"default/digits"}


def test_a_full_node_takes_no_more_models() -> None:
    world = cluster()
    world.start("small", NodeKind.INFERENCE, slots=1)
    world.deploy("digits")
    world.deploy("text")
    world.deliver()
    assert world.deployment("text").serving == ()


def test_an_old_etag_is_refused() -> None:
    world = cluster(inference=1)
    etag = world.deploy("digits").etag
    update(world, replicas=2, etag=etag)
    with pytest.raises(EtagMismatch):
        update(world, replicas=3, etag=etag)
    with pytest.raises(EtagMismatch):
        world.handle(DeploymentDeleted(NAME, etag))
    with pytest.raises(AlreadyExists):
        world.deploy("digits")
    with pytest.raises(NotFound):
        world.handle(DeploymentDeleted(f"{PROJECT}/deployments/none"))
