"""Predictions while replicas come and go, by both clients."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import headrace
from headrace.client import Client
from headrace.errors import InvalidArgument, NotFound, Unavailable
from headrace.testing import free_port
from headrace.testing.server import ServedChannel
from tests.services.client.serving_fakes import Doubling, OneDeployment, serve_deployments, serve_replica

X = np.array([[1.0, 2.0]], np.float32)


@dataclass
class Serving:
    """Two replicas, and who knows of them."""

    first: ServedChannel
    second: ServedChannel
    models: tuple[Doubling, Doubling]
    deployment: OneDeployment
    address: str


@pytest.fixture
def serving() -> Iterator[Serving]:
    # The rpcs that the fakes lack answer UNIMPLEMENTED.
    models = Doubling(), Doubling()  # type: ignore[abstract]
    with serve_replica(models[0]) as first, serve_replica(models[1]) as second:
        deployment = OneDeployment(first.address, second.address)  # type: ignore[abstract]
        with serve_deployments(deployment) as address:
            yield Serving(first, second, models, deployment, address)


@pytest.fixture
def client(serving: Serving) -> Iterator[Client]:
    with headrace.connect(serving.address) as client:
        yield client


def stop(replica: ServedChannel) -> None:
    replica.server.stop(0).wait()


def test_replicas_are_asked_in_turn_and_the_deployment_once(serving: Serving, client: Client) -> None:
    answers = [client.predict("double", {"x": X})["y"].tolist() for _ in range(4)]

    assert answers == [[[2.0, 4.0]]] * 4
    assert [model.calls for model in serving.models] == [2, 2]
    assert serving.deployment.asked == 1


def test_when_a_replica_stops_the_other_one_answers(serving: Serving, client: Client) -> None:
    client.predict("double", {"x": X})
    stop(serving.first)

    answers = [client.predict("double", {"x": X})["y"].tolist() for _ in range(4)]

    assert answers == [[[2.0, 4.0]]] * 4


def test_when_all_known_replicas_stop_the_deployment_is_asked_again(serving: Serving, client: Client) -> None:
    serving.deployment.addresses = [serving.first.address]
    client.predict("double", {"x": X})
    stop(serving.first)
    serving.deployment.addresses = [serving.second.address]

    assert client.predict("double", {"x": X})["y"].tolist() == [[2.0, 4.0]]
    assert serving.deployment.asked == 2


def test_a_node_that_no_longer_has_the_model_is_not_asked_again(serving: Serving, client: Client) -> None:
    serving.deployment.addresses = [serving.first.address]
    client.predict("double", {"x": X})
    serving.models[0].unloaded = True
    serving.deployment.addresses = [serving.second.address]

    assert client.predict("double", {"x": X})["y"].tolist() == [[2.0, 4.0]]


def test_nobody_answers_is_told_when_the_time_is_over(serving: Serving, client: Client) -> None:
    gone = f"127.0.0.1:{free_port()}"
    serving.deployment.addresses = [gone]

    with pytest.raises(Unavailable, match=gone):
        client.predict("double", {"x": X}, timeout_s=3)


def test_a_deployment_that_is_not_there_is_not_waited_for(serving: Serving, client: Client) -> None:
    with pytest.raises(NotFound, match="there is no projects/default/deployments/absent"):
        client.predict("absent", {"x": X})

    assert serving.deployment.asked == 1


def test_a_wrong_request_is_not_sent_to_another_replica(serving: Serving, client: Client) -> None:
    with pytest.raises(InvalidArgument):
        client.predict("double", {"x": np.array([1j])})

    assert sum(model.calls for model in serving.models) == 0


def test_the_asyncio_client_falls_over_too(serving: Serving) -> None:
    async def road() -> list[Any]:
        async with headrace.connect_async(serving.address) as client:
            ask: Callable[[], Any] = lambda: client.predict("double", {"x": X})  # noqa: E731 - said five times
            await ask()
            await asyncio.to_thread(stop, serving.first)
            answers = await asyncio.gather(*(ask() for _ in range(4)))
            with pytest.raises(NotFound, match="deployments/absent"):
                await client.predict("absent", {"x": X})
            return [answer["y"].tolist() for answer in answers]

    assert asyncio.run(road()) == [[[2.0, 4.0]]] * 4
