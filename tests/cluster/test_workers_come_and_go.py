"""Workers of a run are killed, frozen and thawed on a whole cluster: the run goes on in its first attempt, and learns what it should."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import headrace
from headrace.client.sync import Client
from headrace.local.plan import Sizes
from headrace.local.supervisor import Supervisor
from headrace.scheduler.v1.jobs_pb2 import Job, JobState
from tests.cluster.awaited import awaited
from tests.cluster.patience import patient_plan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

STEPS, LAST = 600, 300  # the others wait until what is done to the workers is done
LEASE_S = 15.0  # a node that is frozen is waited for so long; one on a busy machine is not lost in it


@pytest.fixture
def supervisor(folder: Path) -> Iterator[Supervisor]:
    with Supervisor(
        patient_plan(folder / "services", Sizes(workers=3, shards=2), LEASE_S), folder / "logs"
    ) as running:
        yield running


@dataclass
class Meddler:
    """Does something to a node once the run has begun, and another thing once the run has taken note; then the run may end."""

    file: Path  # which the run waits for
    rank: int
    first: Callable[[str], object]
    awaited: str = "is gone"  # what the job says when it has taken note
    then: Callable[[str], object] = lambda node: None
    victim: str = ""
    said: list[str] = field(default_factory=list)

    def on_job(self, job: Job) -> None:
        if not self.said or self.said[-1] != job.message:
            self.said.append(job.message)
        if not self.victim and job.progress.step >= 20:
            tasks = [place for place in job.placements if "/tasks/" in place.resource]
            self.victim = tasks[self.rank].node.removeprefix("nodes/")
            self.first(self.victim)
        elif self.victim and self.awaited in job.message:
            self.then(self.victim)
            self.file.touch()


def train(supervisor: Supervisor, meddler: Meddler) -> Job:
    address = next(spec.address for spec in supervisor.specs if spec.name == "scheduler")
    with headrace.connect(address) as client:
        job = submitted(client, meddler.file)
        return client.wait(job, on_change=meddler.on_job, timeout_s=180)


def submitted(client: Client, file: Path) -> Job:
    return client.train(
        awaited(file.parent),
        "cancer",
        config={"file": str(file), "last": LAST},
        workers=3,
        min_workers=2,
        shards=2,
        steps=STEPS,
        batch_size=60,
        job_id="run",
    )


def ranks_of(supervisor: Supervisor, node: str) -> list[psutil.Process]:
    return psutil.Process(supervisor.pid(node)).children(recursive=True)


def assert_good(done: Job) -> None:
    assert done.state == JobState.JOB_STATE_SUCCEEDED, done.failure
    assert done.attempt == 1
    assert done.result.metrics["accuracy"] >= 0.9


def test_a_rank_that_is_killed_is_replaced_in_the_same_attempt(supervisor: Supervisor, folder: Path) -> None:
    def kill(node: str) -> None:
        for process in ranks_of(supervisor, node):
            process.kill()

    meddler = Meddler(folder.parent / "replaced", 2, kill, awaited="worker 3 on")
    done = train(supervisor, meddler)
    assert_good(done)
    assert any("worker 2 is gone" in said for said in meddler.said), meddler.said
    assert any("worker 3 on" in said for said in meddler.said), meddler.said


def test_a_node_that_freezes_and_thaws_finds_that_another_rank_leads_the_run(
    supervisor: Supervisor, folder: Path
) -> None:
    frozen: list[psutil.Process] = []

    def freeze(node: str) -> None:
        frozen.extend([psutil.Process(supervisor.pid(node)), *ranks_of(supervisor, node)])
        for process in frozen:
            process.suspend()

    def thaw(node: str) -> None:
        while frozen:
            frozen.pop().resume()

    meddler = Meddler(folder.parent / "thawed", 0, freeze, then=thaw)
    done = train(supervisor, meddler)
    assert_good(done)
    assert not frozen
    assert any("worker 0 is gone: node" in said for said in meddler.said), meddler.said
