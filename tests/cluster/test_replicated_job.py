"""A training job whose primary parameter process is killed goes on at the replica in the same attempt."""

import os
import signal
from pathlib import Path

import pytest

import headrace
from headrace.local.plan import Sizes
from headrace.local.supervisor import Supervisor
from headrace.parameters.client import StoresClient
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY
from headrace.scheduler.v1.jobs_pb2 import Job
from tests.cluster.patience import patient_plan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

PROGRAM = "headrace_examples.tabular:BreastCancer"
STEPS = 600


class Reaper:
    """Kills the primary of the only shard once, when it has a replica that can take over, and keeps what the job said about it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._addresses = {spec.name: spec.address for spec in supervisor.specs}
        self.killed = ""
        self.messages: list[str] = []

    def on_job(self, job: Job) -> None:
        self.messages.append(job.message)
        primary = next((place for place in job.placements if place.role == STORE_ROLE_PRIMARY), None)
        if self.killed or not primary or not job.progress.step:
            return
        name = primary.node.removeprefix("nodes/")
        with StoresClient(self._addresses[name]) as stores:
            synced = stores.get(primary.resource).replica_synced
        if synced:
            self.killed = name
            os.kill(self._supervisor.pid(name), signal.SIGKILL)


def test_a_job_goes_on_at_the_replica_of_a_primary_that_was_killed(folder: Path) -> None:
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
            learning_rate=2e-3,
            durability="replica",
        )
        done = client.wait(job, on_change=reaper.on_job, timeout_s=200)

    assert reaper.killed
    assert (done.attempt, done.progress.step) == (1, STEPS), reaper.messages
    assert max(place.term for place in done.placements) >= 2, "another process has served it"
