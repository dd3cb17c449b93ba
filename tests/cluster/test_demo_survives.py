"""kill -9 of any one service in the middle of the demo ends in a finished demo."""

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from headrace.demo.result import DemoResult
from headrace.demo.run import Demo
from headrace.local.plan import Sizes
from headrace.local.supervisor import Supervisor
from headrace.scheduler.v1.jobs_pb2 import Job

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

EXAMPLE = "tabular"  # the quickest to train
STEPS_BEFORE_KILL = 5


@dataclass
class Killer:
    """Kills `victim` once, at the first sign that stage `moment` is under way."""

    victim: str
    moment: str
    stage: str = ""
    killed: int = 0
    supervisor: Supervisor | None = field(default=None, repr=False)

    def on_stage(self, line: str) -> None:
        self.stage = line if line in ("training", "optimizing", "deploying", "measuring") else self.stage
        if self.stage == self.moment and self.moment in ("deploying", "measuring"):
            self._kill()

    def on_job(self, job: Job) -> None:
        under_way = job.progress.step >= (STEPS_BEFORE_KILL if self.moment == "training" else 1)
        if self.stage == self.moment and under_way:
            self._kill()

    def _kill(self) -> None:
        if not self.killed and self.supervisor is not None:
            self.killed = self.supervisor.pid(self.victim)
            os.kill(self.killed, signal.SIGKILL)


def run_demo(folder: Path, killer: Killer) -> DemoResult:
    demo = Demo(EXAMPLE, folder, Sizes(), killer.on_stage, killer.on_job)
    with demo.start() as supervisor:
        killer.supervisor = supervisor
        result = demo.run(supervisor)
        assert killer.killed, f"{killer.victim} was never killed"
        assert supervisor.pid(killer.victim) != killer.killed, "the supervisor did not start it again"
    return result


@pytest.mark.parametrize(
    ("victim", "moment"),
    [
        ("registry", "training"),
        ("scheduler", "training"),
        ("parameters-0", "training"),
        ("parameters-1", "training"),
        ("training-0", "training"),
        ("training-1", "training"),
        ("inference-0", "training"),
        ("optimization-0", "optimizing"),
        ("registry", "optimizing"),
        ("scheduler", "optimizing"),
        ("registry", "deploying"),
        ("scheduler", "deploying"),
        ("inference-0", "deploying"),
        ("inference-0", "measuring"),
    ],
)
def test_the_demo_finishes_although_a_service_is_killed(victim: str, moment: str, folder: Path) -> None:
    result = run_demo(folder, Killer(victim, moment))

    assert [variant.file for variant in result.variants if variant.served]
    assert all(variant.metrics[result.goal] >= 0.9 for variant in result.variants)
