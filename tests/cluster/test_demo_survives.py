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
STAGES = ("training", "optimizing", "deploying", "measuring")
STEPS_BEFORE_KILL = 5


@dataclass
class Killer:
    """Kills each victim once, at the first sign that its stage is under way."""

    plan: dict[str, str]  # stage -> the service killed in it
    stage: str = ""
    killed: dict[str, int] = field(default_factory=dict)  # stage -> process id
    supervisor: Supervisor | None = field(default=None, repr=False)

    def on_stage(self, line: str) -> None:
        """Take note of a stage; the last two have no job whose progress could tell when to strike."""
        self.stage = line if line in STAGES else self.stage
        if self.stage in ("deploying", "measuring"):
            self._kill()

    def on_job(self, job: Job) -> None:
        """Strike once the job has done something that a crash could spoil."""
        if job.progress.step >= (STEPS_BEFORE_KILL if self.stage == "training" else 1):
            self._kill()

    def _kill(self) -> None:
        if self.stage in self.plan and self.stage not in self.killed and self.supervisor is not None:
            self.killed[self.stage] = self.supervisor.pid(self.plan[self.stage])
            os.kill(self.killed[self.stage], signal.SIGKILL)


def run_demo(folder: Path, killer: Killer) -> DemoResult:
    demo = Demo(EXAMPLE, folder, Sizes(), killer.on_stage, killer.on_job)
    with demo.start() as supervisor:
        killer.supervisor = supervisor
        result = demo.run(supervisor)
    assert set(killer.killed) == set(killer.plan)
    return result


@pytest.mark.parametrize(
    "plan",
    [
        {"training": "parameters-0", "optimizing": "optimization-0", "measuring": "inference-0"},
        {"training": "scheduler", "optimizing": "registry", "deploying": "inference-0"},
        {
            "training": "training-0",
            "optimizing": "scheduler",
            "deploying": "registry",
            "measuring": "scheduler",
        },
        {"training": "registry", "optimizing": "inference-0", "deploying": "scheduler"},
    ],
    ids=lambda plan: ", ".join(f"{victim} while {stage}" for stage, victim in plan.items()),
)
def test_the_demo_finishes_although_services_are_killed(plan: dict[str, str], folder: Path) -> None:
    result = run_demo(folder, Killer(plan))

    assert [variant.file for variant in result.variants if variant.served]
    assert all(variant.metrics[result.goal] >= 0.9 for variant in result.variants)
