"""kill -9 in the middle of a run by all-reduce: of a rank, and the others go on; of a node that the run needs, and it goes on from its checkpoint."""

import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

import headrace
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
    """Kills processes once, when the run has a checkpoint to go on from."""

    victims: Callable[[], list[int]]
    killed: bool = False
    attempts: list[tuple[int, int]] = field(default_factory=list)  # attempt and checkpoint, as they changed
    said: set[str] = field(default_factory=set)

    def on_job(self, job: Job) -> None:
        self.said.add(job.message)
        seen = (job.attempt, job.checkpoint.step)
        if not self.attempts or self.attempts[-1] != seen:
            self.attempts.append(seen)
        if not self.killed and job.attempt == 1 and job.checkpoint.step:
            for process in self.victims():
                os.kill(process, signal.SIGKILL)
            self.killed = True


def train(supervisor: Supervisor, killer: Killer, steps: int, min_workers: int = 0) -> Job:
    address = next(spec.address for spec in supervisor.specs if spec.name == "scheduler")
    with headrace.connect(address) as client:
        job = client.train(
            PROGRAM,
            "cancer",
            strategy="all_reduce",
            workers=2,
            min_workers=min_workers,
            steps=steps,
            batch_size=32,
            checkpoint_every_steps=CHECKPOINT_EVERY,
        )
        done = client.wait(job, on_change=killer.on_job, timeout_s=120)
    assert done.state == JobState.JOB_STATE_SUCCEEDED, done.failure
    assert done.result.metrics["accuracy"] >= 0.9
    return done


def test_the_others_go_on_without_a_rank_even_if_it_is_the_one_that_leads(supervisor: Supervisor) -> None:
    def rank_0() -> list[int]:
        nodes = [psutil.Process(supervisor.pid(f"training-{number}")) for number in (0, 1)]
        ranks = [rank for node in nodes for rank in node.children()]
        return [rank.pid for rank in ranks if "train-0+" in rank.cwd()]

    killer = Killer(rank_0)
    done = train(supervisor, killer, steps=2000, min_workers=1)
    assert done.attempt == 1
    assert any("goes on with 1 of 2 workers: worker 0 is gone" in said for said in killer.said), killer.said


def test_a_run_that_needs_a_node_that_is_killed_goes_on_from_its_checkpoint(supervisor: Supervisor) -> None:
    killer = Killer(lambda: [supervisor.pid("training-1")])
    done = train(supervisor, killer, STEPS)
    assert [place.resource.partition("/tasks/")[1] for place in done.placements] == ["/tasks/"] * 2
    assert done.attempt == 2
    assert killer.attempts[-1][1] == STEPS
    assert min(step for attempt, step in killer.attempts if attempt == 2) >= CHECKPOINT_EVERY
