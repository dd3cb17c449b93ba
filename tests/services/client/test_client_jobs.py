"""Jobs through the Python client, against a real scheduler and registry that have no nodes."""

import asyncio
import threading
from pathlib import Path

import pytest

import headrace
from headrace.client import Client
from headrace.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from headrace.scheduler.v1 import jobs_pb2
from headrace.testing import free_port
from tests.services.client.front_door import FrontDoor

PROGRAM = "headrace_examples.digits:Digits"
SOURCE = "class Net:\n    def model(self): ...\n    def data(self, split): ...\n"


def submit(client: Client, name: str = "") -> jobs_pb2.Job:
    return client.train(PROGRAM, "digits", steps=10, batch_size=8, workers=2, job_id=name)


def test_a_job_that_was_submitted_is_found_again(client: Client, project: str) -> None:
    job = submit(client, "mine")

    assert job.name == f"projects/{project}/jobs/mine"
    assert client.job("mine").train.workers == 2
    assert [found.name for found in client.list_jobs()] == [job.name]


def test_a_file_is_packed_and_uploaded(client: Client, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(SOURCE)

    job = client.train(tmp_path / "my_model.py", "net", steps=1, batch_size=1, config={"width": 64})

    program = job.train.program
    assert program.archive.object == "my_model:Net"
    assert client.registry.download_bytes(program.archive.artifact)[:2] == b"\x1f\x8b", "gzip"
    assert dict(program.config) == {"width": 64.0}


def test_a_job_that_waits_says_why(client: Client) -> None:
    answer = client.explain(submit(client))

    assert answer.summary.startswith("waits: ")
    assert {condition.id: condition.needed for condition in answer.conditions}["training nodes"] == 2


def test_waiting_ends_when_somebody_cancels(client: Client) -> None:
    job = submit(client)
    seen: list[jobs_pb2.Job] = []
    first = threading.Event()

    def on_change(change: jobs_pb2.Job) -> None:
        seen.append(change)
        first.set()

    def cancel() -> None:
        assert first.wait(20)
        client.cancel(job)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    with pytest.raises(Cancelled, match="was cancelled"):
        client.wait(job, on_change, timeout_s=20)
    canceller.join()
    assert [seen[0].state, seen[-1].state] == [jobs_pb2.JOB_STATE_QUEUED, jobs_pb2.JOB_STATE_CANCELLED]


def test_waiting_no_longer_than_asked_leaves_the_job_alone(client: Client) -> None:
    job = submit(client)

    with pytest.raises(DeadlineExceeded, match=r"was not done within 0\.2 s; it goes on"):
        client.wait(job, timeout_s=0.2)

    assert client.job(job.name).state == jobs_pb2.JOB_STATE_QUEUED


def test_a_name_is_given_once(client: Client) -> None:
    submit(client, "mine")

    with pytest.raises(AlreadyExists):
        submit(client, "mine")


def test_what_is_not_there_is_not_found(client: Client) -> None:
    for ask in (client.job, client.cancel, client.explain, client.wait):
        with pytest.raises(NotFound, match="jobs/absent"):
            ask("absent")


def test_the_scheduler_judges_what_can_never_run(client: Client) -> None:
    with pytest.raises(InvalidArgument):
        client.train("no module:Net", "digits", steps=1, batch_size=1)
    with pytest.raises(InvalidArgument, match="workers"):
        client.train(PROGRAM, "digits", steps=1, batch_size=1, workers=5000)


def test_where_nothing_listens_every_call_says_so() -> None:
    address = f"127.0.0.1:{free_port()}"

    with headrace.connect(address) as client, pytest.raises(Unavailable, match=address) as raised:
        client.list_jobs()

    assert raised.value.metadata["address"] == address


def test_the_asyncio_client_says_the_same(front_door: FrontDoor, project: str, tmp_path: Path) -> None:
    (tmp_path / "my_model.py").write_text(SOURCE)

    async def road() -> None:
        async with headrace.connect_async(front_door.address, project) as client:
            job = await client.train(tmp_path / "my_model.py", "net", steps=1, batch_size=1)
            assert [found.name for found in await client.list_jobs()] == [job.name]
            assert (await client.explain(job)).summary.startswith("waits: ")
            with pytest.raises(DeadlineExceeded, match="it goes on"):
                await client.wait(job, timeout_s=0.2)
            waiting = asyncio.create_task(client.wait(job, timeout_s=20))
            await client.cancel(job)
            with pytest.raises(Cancelled, match="was cancelled"):
                await waiting
            assert (await client.job(job.name)).state == jobs_pb2.JOB_STATE_CANCELLED
            assert await client.list_nodes() == []
            with pytest.raises(NotFound):
                await client.drain("absent")

    asyncio.run(road())
