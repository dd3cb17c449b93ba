"""Workers that are much slower than the others, found by the time each needs for its own part of a step."""

from dataclasses import dataclass, replace
from statistics import median

from headrace_scheduler.core import elastic
from headrace_scheduler.core.jobs import Failure, Job, Member

OWN_STEP_S = "own_step_s"  # what ranks report it as
NOTED, FORGOTTEN = 3.0, 2.0  # times the median of the others: told from the one on, until the other


@dataclass(frozen=True)
class Straggler:
    """The slowest worker, and how many times as long it takes as the others."""

    task: Member
    times: float

    @property
    def described(self) -> str:
        """For people."""
        node = self.task.node.removeprefix("nodes/")
        return f"worker {self.task.index} on {node} takes {self.times:.1f} times as long for a step as the others"


def slowest(job: Job) -> Straggler | None:
    """Return the slowest of the workers that have reported their times; None if there is nobody to compare it with."""
    reported = {rank: progress.metrics.get(OWN_STEP_S, 0.0) for rank, progress in job.rank_progress.items()}
    tasks = {task.index: task for task in job.joined_tasks if reported.get(task.index)}
    if len(tasks) < 2:
        return None
    rank = max(tasks, key=lambda index: reported[index])
    others = median(reported[other] for other in tasks if other != rank)
    return Straggler(tasks[rank], reported[rank] / others)


def noted(job: Job, now: float) -> Job:
    """Take note of a straggler, and go on without it if the job says so and can."""
    found = slowest(job)
    if found is None or not job.state.placed:
        return job
    rank = found.task.index
    if job.straggler != rank and found.times >= NOTED:
        job = replace(job, straggler=rank, message=found.described)
    elif job.straggler != rank or found.times < FORGOTTEN:
        job = replace(job, straggler=-1)
    if (
        job.straggler_factor
        and found.times > job.straggler_factor
        and elastic.goes_on_without(job, found.task)
    ):
        job = replace(job, straggler=-1, avoided_nodes=(*job.avoided_nodes, found.task.node))
        return elastic.without(job, found.task, Failure("STRAGGLER", found.described), now)
    return job
