"""Workers that are much slower than the others, found by the time each needs for its own part of a step."""

from dataclasses import dataclass, replace
from statistics import median

from headrace_scheduler.core import elastic, reasons
from headrace_scheduler.core.jobs import Failure, Job, Member

OWN_STEP_S = "own_step_s"  # what ranks report it as
NOTED = 3.0  # times the median of the others
LEAST_S = 0.02  # by which its step is longer: less is the noise of a busy machine


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
    """Return the slowest of the workers that have reported their times; None if it is not slower by what can be measured."""
    reported = {rank: progress.metrics.get(OWN_STEP_S, 0.0) for rank, progress in job.rank_progress.items()}
    tasks = {task.index: task for task in job.joined_tasks if reported.get(task.index)}
    if len(tasks) < 2:
        return None  # there is nobody to compare it with
    rank = max(tasks, key=lambda index: reported[index])
    others = median(reported[other] for other in tasks if other != rank)
    longer = reported[rank] - others >= LEAST_S
    return Straggler(tasks[rank], reported[rank] / others) if longer else None


def noted(job: Job, now: float) -> Job:
    """Name a straggler, once, and go on without it if the job says so and can."""
    found = slowest(job) if job.state.placed else None
    if found is None:
        return job
    if found.times >= NOTED and job.straggler != found.task.index:
        job = replace(job, straggler=found.task.index, message=found.described)
    if (
        job.straggler_factor
        and found.times > job.straggler_factor
        and elastic.goes_on_without(job, found.task)
    ):
        job = replace(job, avoided_nodes=(*job.avoided_nodes, found.task.node))
        return elastic.without(job, found.task, Failure(reasons.STRAGGLER, found.described), now)
    return job
