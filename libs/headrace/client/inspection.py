"""What can be seen of a job's tasks: logs and measures of every rank and attempt, stacks and profiles while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from headrace.client.curves import Curve, merged
from headrace.client.naming import task_name
from headrace.client.outcome import is_final
from headrace.errors import NotFound
from headrace.scheduler.v1.jobs_pb2 import Job, JobState
from headrace.tasks.v1.inspection_pb2 import (
    CaptureProfileRequest,
    DumpStacksRequest,
    GetMetricsRequest,
    Metrics,
    ReadLogRequest,
    Stacks,
)
from headrace.tasks.v1.inspection_pb2_grpc import InspectionStub

if TYPE_CHECKING:
    import grpc

PROFILE_S = 300.0  # a step of a large model takes its time
_BEGUN = (JobState.JOB_STATE_RUNNING, JobState.JOB_STATE_CANCELLING)


class Inspection:
    """Looks at tasks through the scheduler; a part of `Client`.

    Args:
        watch: Yields a job as it is now and after each change.
    """

    def __init__(self, channel: grpc.Channel, watch: Callable[[str], Iterator[Job]]) -> None:
        self._stub = InspectionStub(channel)
        self._watch = watch

    def log(self, job: Job, *, rank: int = 0, attempt: int = 0, tail_lines: int = 0) -> Iterator[bytes]:
        """Yield what a task of the job has printed, oldest first, as far as its node keeps it.

        Args:
            attempt: 0 means the latest.
            tail_lines: Begin with the last so many lines; 0: with the oldest.
        Raises:
            FailedPrecondition: The job has not begun.
            NotFound: No node that is there keeps anything of it.
        """
        name = task_name(job, attempt or job.attempt, rank)
        for response in self._stub.ReadLog(ReadLogRequest(name=name, tail_lines=tail_lines)):
            yield response.data

    def metrics(self, job: Job, *, rank: int = 0) -> dict[str, Curve]:
        """Return the course of every measure of a rank over all attempts: what an attempt did again counts once, as it did it.

        Raises:
            FailedPrecondition: The job has not begun.
            NotFound: No node that is there keeps anything of any attempt.
        """
        kept: list[Metrics] = []
        for attempt in range(1, job.attempt):
            with suppress(NotFound):
                kept.append(self._metrics(job, attempt, rank))
        try:
            kept.append(self._metrics(job, job.attempt, rank))
        except NotFound:
            if not kept:
                raise
        return merged(kept)

    def _metrics(self, job: Job, attempt: int, rank: int) -> Metrics:
        return self._stub.GetMetrics(GetMetricsRequest(name=task_name(job, attempt, rank)))

    def stacks(self, job: Job, *, rank: int = 0) -> Stacks:
        """Return where each thread of a running task is, and who looked.

        Raises:
            FailedPrecondition: The task does not run.
        """
        return self._stub.DumpStacks(DumpStacksRequest(name=task_name(job, job.attempt, rank)))

    def profile(self, job: Job, *, rank: int = 0, steps: int = 5, timeout_s: float = PROFILE_S) -> bytes:
        """Record a running task's next steps; return the trace, gzipped JSON that chrome://tracing and ui.perfetto.dev read.

        Raises:
            FailedPrecondition: The task does not run, ends before, or is being recorded already.
            DeadlineExceeded: The steps take longer than `timeout_s`.
        """
        request = CaptureProfileRequest(name=task_name(job, job.attempt, rank), steps=steps)
        return b"".join(part.data for part in self._stub.CaptureProfile(request, timeout=timeout_s))

    def follow_log(self, job: Job, *, rank: int = 0, tail_lines: int = 0) -> Iterator[bytes]:
        """Yield what a task of the job prints, in this attempt and those that follow, until the job is final."""
        attempt = 0
        for current in self._watch(job.name):
            final = is_final(current)
            if current.attempt > attempt and begun(current):
                attempt = current.attempt
                request = ReadLogRequest(
                    name=task_name(current, attempt, rank), tail_lines=tail_lines, follow=not final
                )
                for response in self._stub.ReadLog(request):
                    yield response.data
                tail_lines = 0
            if final:
                return


def begun(job: Job) -> bool:
    """Tell whether the tasks of the job's attempt run, or did."""
    return job.state in _BEGUN or is_final(job)
