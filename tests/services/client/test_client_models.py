"""Models and deployments through the Python client, against a real scheduler and registry that have no nodes."""

import asyncio
from pathlib import Path

import pytest

import headrace
from headrace.client import Client
from headrace.errors import DeadlineExceeded, FailedPrecondition, NotFound
from headrace.registry.v1.models_pb2 import FILE_ROLE_ONNX, FILE_ROLE_WEIGHTS, File, Version
from headrace.scheduler.v1.deployments_pb2 import DEPLOYMENT_STATE_PROGRESSING
from tests.services.client.front_door import FrontDoor


def register(client: Client, content: bytes, metrics: dict[str, float] | None = None) -> Version:
    """Make the next version of "digits"; its bytes are no model, which only inference nodes would notice."""
    artifact = client.registry.upload_bytes(client.project, content)
    files = [
        File(path="model.safetensors", artifact=artifact, role=FILE_ROLE_WEIGHTS),
        File(path="fp32.onnx", artifact=artifact, role=FILE_ROLE_ONNX),
    ]
    return client.registry.create_version(
        f"projects/{client.project}/models/digits",
        Version(files=files, serving_file="fp32.onnx", metrics=metrics or {}),
    )


def test_a_version_is_found_by_number_alias_and_as_the_newest(client: Client) -> None:
    first, second = register(client, b"one"), register(client, b"two")
    client.set_alias("digits", "stable", "digits/1")

    assert client.version("digits/1").name == client.version("digits@stable").name == first.name
    assert client.version("digits").name == second.name
    assert [version.name for version in client.versions("digits")] == [second.name, first.name]
    assert [model.name for model in client.models()] == [f"projects/{client.project}/models/digits"]


def test_an_alias_of_an_alias_points_to_the_version_it_means_now(client: Client) -> None:
    first = register(client, b"one")

    model = client.set_alias("digits", "stable", "digits@latest")
    register(client, b"two")

    assert model.aliases["stable"] == first.name
    assert client.version("digits@stable").name == first.name


def test_an_alias_is_removed_by_pointing_nowhere(client: Client) -> None:
    register(client, b"one")
    client.set_alias("digits", "stable", "digits/1")

    assert not client.set_alias("digits", "stable", "").aliases


def test_all_files_of_a_version_are_downloaded(client: Client, tmp_path: Path) -> None:
    register(client, b"one")

    paths = client.download("digits", tmp_path / "new" / "folder")

    assert [path.name for path in paths] == ["model.safetensors", "fp32.onnx"]
    assert {path.read_bytes() for path in paths} == {b"one"}


def test_what_is_not_there_is_not_found(client: Client, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="models/absent"):
        client.version("absent")
    with pytest.raises(NotFound):
        client.deploy("digits", "absent")
    with pytest.raises(NotFound):
        client.undeploy("absent")
    with pytest.raises(NotFound, match="deployments/absent"):
        client.predict("absent", {})
    with pytest.raises(NotFound):
        client.download("absent", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_deploying_again_moves_the_deployment(client: Client) -> None:
    first, second = register(client, b"one"), register(client, b"two")

    created = client.deploy("digits", "digits/1", wait=False)
    moved = client.deploy("digits", "digits", replicas=2, wait=False)

    assert (created.resolved_version, moved.resolved_version) == (first.name, second.name)
    assert moved.state == DEPLOYMENT_STATE_PROGRESSING
    assert [(one.name, one.replicas) for one in client.list_deployments()] == [(created.name, 2)]
    client.undeploy("digits")
    assert client.list_deployments() == []


def test_a_deployment_that_nobody_serves_in_time_says_what_is_missing(client: Client) -> None:
    register(client, b"one")

    with pytest.raises(DeadlineExceeded, match=r"0 of 2 replicas are ready; no inference node has room"):
        client.deploy("digits", "digits", replicas=2, timeout_s=3)


def test_a_file_the_version_lacks_cannot_be_deployed(client: Client) -> None:
    register(client, b"one")

    with pytest.raises((NotFound, FailedPrecondition), match=r"int4\.onnx"):
        client.deploy("digits", "digits", "int4.onnx")


def test_nobody_to_ask_is_told_with_the_number_of_replicas(client: Client) -> None:
    register(client, b"one")
    client.deploy("digits", "digits", wait=False)

    with pytest.raises(headrace.errors.Unavailable, match="has 0 of 1 replicas ready"):
        client.predict("digits", {}, timeout_s=3)


def test_the_asyncio_client_says_the_same(front_door: FrontDoor, project: str, tmp_path: Path) -> None:
    with headrace.connect(front_door.address, project) as client:
        version = register(client, b"one")

    async def road() -> None:
        async with headrace.connect_async(front_door.address, project) as client:
            assert (await client.version("digits")).name == version.name
            assert len(await client.versions("digits")) == len(await client.models()) == 1
            await client.set_alias("digits", "stable", "digits/1")
            deployment = await client.deploy("digits", "digits@stable", wait=False)
            assert [one.name for one in await client.list_deployments()] == [deployment.name]
            with pytest.raises(headrace.errors.Unavailable, match="has 0 of 1 replicas ready"):
                await client.predict("digits", {}, timeout_s=3)
            await client.undeploy("digits")
            assert tmp_path / "fp32.onnx" in await client.download("digits", tmp_path)

    asyncio.run(road())
