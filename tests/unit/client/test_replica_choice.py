"""Which replica is asked next, and how long a service may be away."""

from __future__ import annotations

import pytest

from headrace.client.replicas import Replicas
from headrace.client.retries import Retries
from headrace.errors import FailedPrecondition, Unavailable
from headrace.scheduler.v1 import deployments_pb2 as pb
from headrace.testing import FakeClock
from headrace.types.v1.task_pb2 import Failure

NAME = "projects/default/deployments/digits"
READY = pb.DEPLOYMENT_STATE_READY


def deployment(*addresses: str, state: pb.DeploymentState.ValueType = READY) -> pb.Deployment:
    serving = [pb.Replica(address=address, ready=True) for address in addresses]
    return pb.Deployment(name=NAME, state=state, serving=[*serving, pb.Replica(address="away:1")])


def test_ready_replicas_are_asked_in_turn() -> None:
    replicas = Replicas()
    replicas.learn(deployment("a:1", "b:1"))

    asked = [replicas.pick(NAME) for _ in range(4)]

    assert sorted(asked[:2], key=str) == ["a:1", "b:1"]
    assert asked[:2] == asked[2:]


def test_a_replica_that_did_not_answer_is_not_asked_again() -> None:
    replicas = Replicas()
    replicas.learn(deployment("a:1", "b:1"))

    replicas.drop(NAME, "a:1")

    assert {replicas.pick(NAME) for _ in range(3)} == {"b:1"}


def test_without_replicas_the_deployment_must_be_asked_again() -> None:
    replicas = Replicas()
    assert replicas.pick(NAME) is None

    replicas.learn(deployment("a:1"))
    replicas.drop(NAME, "a:1")

    assert replicas.pick(NAME) is None


def test_a_deployment_that_is_not_ready_is_unavailable() -> None:
    replicas = Replicas()
    assert not replicas.knows(NAME)

    with pytest.raises(Unavailable, match="has 0 of 1 replicas ready"):
        replicas.learn(deployment(state=pb.DEPLOYMENT_STATE_PROGRESSING))

    assert replicas.knows(NAME), "it is worth waiting for"


def test_a_deployment_that_cannot_be_served_says_why() -> None:
    failed = deployment(state=pb.DEPLOYMENT_STATE_FAILED)
    failed.failure.CopyFrom(Failure(reason="FAILED_PRECONDITION", message="int8.onnx is damaged"))

    with pytest.raises(FailedPrecondition, match=r"digits failed: int8\.onnx is damaged"):
        Replicas().learn(failed)


def test_pauses_grow_until_patience_ends_with_the_last_error() -> None:
    clock = FakeClock()
    retries = Retries(1.0, clock)
    for expected_s in (0.1, 0.2, 0.4):
        assert retries.pause_after(Unavailable("gone")) == expected_s
        clock.advance(expected_s)

    with pytest.raises(Unavailable, match="gone"):
        retries.pause_after(Unavailable("gone"))


def test_a_success_renews_the_patience() -> None:
    clock = FakeClock()
    retries = Retries(1.0, clock)
    clock.advance(0.9)

    retries.succeeded()

    assert retries.remaining_s == pytest.approx(1.0)
    assert retries.pause_after(Unavailable("gone")) == 0.1
