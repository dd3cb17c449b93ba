"""A training job whose parameter processes are all killed goes on in the same attempt, from the very step it was at."""

import os
import signal
from pathlib import Path

import pytest

import headrace
from headrace.client.training import Durability
from headrace.local.plan import Sizes
from headrace.local.supervisor import Supervisor
from headrace.scheduler.v1.jobs_pb2 import Job
from headrace.testing import until
from tests.cluster.patience import patient_plan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PROGRAM = "headrace_examples.tabular:BreastCancer"
STEPS = 60
KILL_AT = (10, 30)


class Reaper:
    """Kills every parameter process at certain steps, and keeps what the job said about it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._left = list(KILL_AT)
        self._killed: set[int] = set()
        self.messages: list[str] = []

    def on_job(self, job: Job) -> None:
        self.messages.append(job.message)
        pids = {
            self._supervisor.pid(spec.name)
            for spec in self._supervisor.specs
            if spec.name.startswith("parameters")
        }
        # Not before those of the last time are back: progress that was on its way may tell of a later step.
        if self._left and job.progress.step >= self._left[0] and not pids & self._killed:
            self._left.pop(0)
            self._killed |= pids
            for pid in pids:
                os.kill(pid, signal.SIGKILL)


def stores_in(folder: Path) -> list[Path]:
    """Return the files of all stores that parameter processes keep."""
    return list((folder / "services").glob("parameters-*/*/*/1"))


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_job_goes_on_in_the_same_attempt_when_its_shards_are_killed(
    durability: Durability, folder: Path
) -> None:
    specs = patient_plan(folder / "services", Sizes())
    with (
        Supervisor(specs, folder / "logs") as supervisor,
        headrace.connect(next(spec.address for spec in specs if spec.name == "scheduler")) as client,
    ):
        reaper = Reaper(supervisor)
        job = client.train(
            PROGRAM,
            "tabular",
            steps=STEPS,
            batch_size=32,
            workers=2,
            shards=2,
            learning_rate=2e-3,
            durability=durability,
        )
        done = client.wait(job, on_change=reaper.on_job, timeout_s=200)
        # A job is done when its version is registered; its stores are deleted after that.
        until(lambda: not stores_in(folder))  # a finished job leaves no files

    assert done.attempt == 1
    assert done.progress.step == STEPS
    assert any("attempt 1 goes on" in message for message in reaper.messages)
