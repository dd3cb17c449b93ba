"""Logs, measures, stacks and profiles by the clients, through a real scheduler; the nodes are fakes."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

import headrace
from headrace.client import Client
from headrace.client.curves import Curve
from headrace.errors import FailedPrecondition, NotFound
from headrace.scheduler.v1.jobs_pb2 import Job
from headrace.types.v1 import task_pb2
from tests.services.client.front_door import FrontDoor, open_front_door
from tests.services.scheduler.fake_nodes import FakeNode, Nodes, fake_nodes

PROGRAM = "headrace_examples.digits:Digits"


@pytest.fixture(scope="module")
def front_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontDoor]:
    """Another one than that of the other tests, where jobs wait for nodes that are not there."""
    with open_front_door(tmp_path_factory.mktemp("inspection")) as door:
        yield door


@pytest.fixture
def nodes(front_door: FrontDoor) -> Iterator[Nodes]:
    with fake_nodes(front_door.address) as started:
        yield started


@pytest.fixture
def node(nodes: Nodes) -> FakeNode:
    nodes.parameters("inspected-parameters")
    return nodes.training("inspected-training")


@pytest.fixture
def job(client: Client, node: FakeNode) -> Iterator[Job]:
    """A job whose first attempt runs; it is cancelled afterwards."""
    submitted = client.train(PROGRAM, "digits", steps=10, batch_size=8)
    task = named(submitted, 1)
    node.wait_for(lambda node: task in node.tasks)
    node.logs[task] = [b"first attempt\n"]
    node.set_task(task, task_pb2.TASK_STATE_RUNNING)
    yield next(change for change in client.watch(submitted) if change.attempt == 1)
    client.cancel(submitted)
    node.wait_for(lambda node: not node.tasks)


def named(job: Job, attempt: int) -> str:
    return f"{job.name.replace('/jobs/', '/tasks/')}-{attempt}-train-0"


def end_attempt(node: FakeNode, job: Job, attempt: int, state: task_pb2.TaskState.ValueType) -> None:
    failure = (
        task_pb2.Failure(reason="TASK_CRASHED", message="gone")
        if state == task_pb2.TASK_STATE_FAILED
        else None
    )
    node.set_task(named(job, attempt), state, failure=failure, progress=task_pb2.Progress(step=attempt))


def go_through_two_attempts(node: FakeNode, job: Job) -> None:
    end_attempt(node, job, 1, task_pb2.TASK_STATE_FAILED)
    node.wait_for(lambda node: named(job, 2) in node.tasks)
    node.logs[named(job, 2)] = [b"second attempt\n"]
    node.set_task(named(job, 2), task_pb2.TASK_STATE_RUNNING)
    node.wait_for(lambda node: f"log {named(job, 2)}" in node.calls)
    end_attempt(node, job, 2, task_pb2.TASK_STATE_SUCCEEDED)


def test_a_log_is_followed_through_all_attempts(client: Client, node: FakeNode, job: Job) -> None:
    playing = threading.Thread(target=go_through_two_attempts, args=(node, job))
    followed = client.inspection.follow_log(job)
    assert next(followed) == b"first attempt\n"
    playing.start()
    assert list(followed) == [b"second attempt\n"]
    playing.join()
    assert list(client.inspection.log(job, attempt=1)) == [b"first attempt\n"]


def test_measures_stacks_and_profiles_are_those_of_the_attempt_that_runs(
    client: Client, node: FakeNode, job: Job
) -> None:
    assert client.inspection.metrics(job) == {"loss": Curve([1], [0.5])}
    assert client.inspection.stacks(job).text == "in a fake"
    assert client.inspection.profile(job) == b"first attempt\n"
    with pytest.raises(NotFound, match="no attached node keeps anything"):
        client.inspection.stacks(job, rank=7)


def test_the_asyncio_client_sees_the_same(
    front_door: FrontDoor, client: Client, node: FakeNode, job: Job
) -> None:
    async def look() -> None:
        async with headrace.client.connect_async(front_door.address, client.project) as aio:
            assert [part async for part in aio.inspection.log(job)] == [b"first attempt\n"]
            assert await aio.inspection.metrics(job) == {"loss": Curve([1], [0.5])}
            assert (await aio.inspection.stacks(job)).source == "faulthandler"
            assert await aio.inspection.profile(job, steps=1) == b"first attempt\n"
            followed = aio.inspection.follow_log(job)
            assert await anext(followed) == b"first attempt\n"
            end_attempt(node, job, 1, task_pb2.TASK_STATE_SUCCEEDED)
            assert [part async for part in followed] == []

    asyncio.run(look())


def test_a_job_that_waits_has_nothing_to_see(client: Client) -> None:
    waiting = client.train(PROGRAM, "digits", steps=10, batch_size=8)
    with pytest.raises(FailedPrecondition, match="has not begun, so there is nothing to see of it yet"):
        list(client.inspection.log(waiting))
    client.cancel(waiting)
