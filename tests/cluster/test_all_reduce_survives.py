"""kill -9 of a rank or of its node in the middle of a run by all-reduce ends in a finished run, from its checkpoint."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import headrace
from headrace.client.sync import Client
from headrace.local.plan import Sizes
from headrace.local.supervisor import Supervisor
from headrace.scheduler.v1.jobs_pb2 import Job, JobState
from tests.cluster.patience import patient_plan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

STEPS, CHECKPOINT_EVERY = 400, 20
PROGRAM = "headrace_examples.tabular:BreastCancer"


@pytest.fixture
def supervisor(folder: Path) -> Iterator[Supervisor]:
    with Supervisor(
        patient_plan(folder / "services", Sizes(workers=2, shards=1)), folder / "logs"
    ) as running:
        yield running


@dataclass
class Killer:
    """Kills a process once, when the run has a checkpoint to go on from."""

    victim: int
    attempts: list[tuple[int, int]] = field(default_factory=list)  # attempt and checkpoint, as they changed

    def on_job(self, job: Job) -> None:
        seen = (job.attempt, job.checkpoint.step)
        if not self.attempts or self.attempts[-1] != seen:
            self.attempts.append(seen)
        if self.victim and job.attempt == 1 and job.checkpoint.step:
            for process in self._found():
                os.kill(process, signal.SIGKILL)
            self.victim = 0

    def _found(self) -> list[int]:
        return [self.victim]


class RankKiller(Killer):
    """Kills the rank that a worker runs, not the worker."""

    def _found(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.victim).children()]


def train(client: Client, killer: Killer) -> Job:
    job = client.train(
        PROGRAM,
        "cancer",
        strategy="all_reduce",
        workers=2,
        steps=STEPS,
        batch_size=32,
        checkpoint_every_steps=CHECKPOINT_EVERY,
    )
    return client.wait(job, on_change=killer.on_job, timeout_s=120)


@pytest.mark.parametrize("kind", [RankKiller, Killer], ids=["a rank", "a node"])
def test_a_run_by_all_reduce_goes_on_from_its_checkpoint(kind: type[Killer], supervisor: Supervisor) -> None:
    address = next(spec.address for spec in supervisor.specs if spec.name == "scheduler")
    killer = kind(supervisor.pid("training-1"))
    with headrace.connect(address) as client:
        done = train(client, killer)
        assert done.state == JobState.JOB_STATE_SUCCEEDED
        assert done.result.metrics["accuracy"] >= 0.9
        assert [place.resource.partition("/tasks/")[1] for place in done.placements] == ["/tasks/"] * 2
    assert done.attempt == 2
    assert killer.attempts[-1][1] == STEPS
    assert min(step for attempt, step in killer.attempts if attempt == 2) >= CHECKPOINT_EVERY
