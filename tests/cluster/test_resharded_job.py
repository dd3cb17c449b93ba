"""A training job with replicas gets a second parameter shard while it trains, and has one again later; the scheduler is killed meanwhile: it learns the same."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

import headrace
from headrace.client.outcome import reshards
from headrace.client.sync import Client
from headrace.local.plan import Sizes
from headrace.local.supervisor import Supervisor
from headrace.scheduler.v1.jobs_pb2 import Job
from tests.cluster.awaited import awaited
from tests.cluster.patience import patient_plan

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

STEPS, LAST = 400, 390


class Meddler:
    """Changes the number of shards, one change after the other, and lets the run end after the last."""

    def __init__(self, client: Client, file: Path, wanted: list[int], kill: Callable[[], None]) -> None:
        self._client, self._file, self._wanted, self._kill = client, file, wanted, kill
        self._asked = 0  # what is of an earlier revision was on its way when the last change was asked for
        self.said: list[str] = []

    def on_job(self, job: Job) -> None:
        self.said.append(job.message)
        if job.progress.step < 20 or job.revision < self._asked or reshards(job):
            return
        if self._wanted:
            self._asked = self._client.reshard(job, self._wanted.pop(0)).revision
            self._kill()
        else:
            self._file.touch()


def test_a_job_whose_shards_come_and_go_while_it_trains_ends_at_the_same_bits(folder: Path) -> None:
    specs = patient_plan(folder / "services", Sizes(workers=2, shards=4))
    program = awaited(folder.parent)
    with (
        Supervisor(specs, folder / "logs") as supervisor,
        headrace.connect(next(spec.address for spec in specs if spec.name == "scheduler")) as client,
    ):

        def trained(name: str, wanted: list[int]) -> tuple[Meddler, Job, str]:
            file = folder.parent / name
            meddler = Meddler(
                client, file, wanted, lambda: os.kill(supervisor.pid("scheduler"), signal.SIGKILL)
            )
            job = client.train(
                program,
                name,
                config={"file": str(file), "last": LAST},
                steps=STEPS,
                batch_size=32,
                workers=2,
                shards=1,
                durability="replica",
            )
            done = client.wait(job, on_change=meddler.on_job, timeout_s=100)
            files = client.version(done.result.version).files
            return (
                meddler,
                done,
                next(entry.artifact for entry in files if entry.path.endswith(".safetensors")),
            )

        meddler, done, weights = trained("changed", [2, 1])
        _, _, untouched = trained("untouched", [])

    assert weights == untouched, "artifacts are named by the digest of their bytes"
    assert (done.attempt, done.progress.step) == (1, STEPS)
    assert "attempt 1 goes on with 2 shards" in meddler.said
    assert "attempt 1 goes on with 1 shard" in meddler.said
