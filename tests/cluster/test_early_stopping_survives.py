"""kill -9 of rank 0 after its best evaluation: the run ends in the same step as one without a break, with the same best values."""

import os
import signal
from collections.abc import Iterator
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

PROGRAM = "headrace_examples.tabular:BreastCancer"
MOST_STEPS, EVERY = 4000, 10


@pytest.fixture
def supervisor(folder: Path) -> Iterator[Supervisor]:
    with Supervisor(
        patient_plan(folder / "services", Sizes(workers=2, shards=1)), folder / "logs"
    ) as running:
        yield running


class Killer:
    """Kills rank 0, wherever it runs, once when the run has a best evaluation and a checkpoint behind it."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self.killed_at = 0

    def on_job(self, job: Job) -> None:
        if self.killed_at or job.best.step < 3 * EVERY or not job.checkpoint.step:
            return
        lead = next(place for place in job.placements if "/tasks/" in place.resource and place.index == 0)
        worker = psutil.Process(self._supervisor.pid(lead.node.removeprefix("nodes/")))
        for rank in worker.children():
            os.kill(rank.pid, signal.SIGKILL)
            self.killed_at = job.best.step


def train(client: Client, name: str) -> Job:
    return client.train(
        PROGRAM,
        "cancer",
        workers=2,
        steps=MOST_STEPS,
        batch_size=32,
        learning_rate=1e-4,
        checkpoint_every_steps=4 * EVERY,
        evaluate_every_steps=EVERY,
        patience=8,
        job_id=name,
    )


def test_a_killed_run_ends_where_it_would_have_ended_with_its_best_values(supervisor: Supervisor) -> None:
    address = next(spec.address for spec in supervisor.specs if spec.name == "scheduler")
    killer = Killer(supervisor)
    with headrace.connect(address) as client:
        whole = client.wait(train(client, "whole"), timeout_s=100)
        broken = client.wait(train(client, "broken"), on_change=killer.on_job, timeout_s=100)
        assert killer.killed_at, "it was killed in the middle"
        assert (broken.state, broken.attempt) == (JobState.JOB_STATE_SUCCEEDED, 2)
        assert whole.progress.step < MOST_STEPS
        assert (broken.progress.step, broken.best.step) == (whole.progress.step, whole.best.step)
        assert broken.best.value == pytest.approx(whole.best.value, abs=1e-6)
        assert client.version(broken.result.version).labels["step"] == str(broken.best.step)
        steps = client.inspection.metrics(broken)["accuracy"].steps
        assert steps == list(range(EVERY, broken.progress.step + 1, EVERY)), "both attempts, as one curve"
        for attempt in (1, 2):
            assert b"training_began" in b"".join(client.inspection.log(broken, attempt=attempt))
