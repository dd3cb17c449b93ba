"""What `headrace.client.inspection` is, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING

from headrace.client.curves import Curve, merged
from headrace.client.inspection import PROFILE_S, begun
from headrace.client.naming import task_name
from headrace.client.outcome import is_final
from headrace.errors import NotFound
from headrace.scheduler.v1.jobs_pb2 import Job
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


class AsyncInspection:
    """A part of `AsyncClient`; every method says the same as `Inspection`'s of its name."""

    def __init__(self, channel: grpc.aio.Channel, watch: Callable[[str], AsyncGenerator[Job, None]]) -> None:
        self._stub = InspectionStub(channel)
        self._watch = watch

    async def log(
        self, job: Job, *, rank: int = 0, attempt: int = 0, tail_lines: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """As `Inspection.log`."""
        name = task_name(job, attempt or job.attempt, rank)
        async for response in self._stub.ReadLog(ReadLogRequest(name=name, tail_lines=tail_lines)):
            yield response.data

    async def follow_log(
        self, job: Job, *, rank: int = 0, tail_lines: int = 0
    ) -> AsyncGenerator[bytes, None]:
        """As `Inspection.follow_log`."""
        attempt = 0
        async with aclosing(self._watch(job.name)) as changes:
            async for current in changes:
                if current.attempt > attempt and begun(current):
                    attempt = current.attempt
                    name = task_name(current, attempt, rank)
                    request = ReadLogRequest(name=name, tail_lines=tail_lines, follow=not is_final(current))
                    async for response in self._stub.ReadLog(request):
                        yield response.data
                    tail_lines = 0
                if is_final(current):
                    return

    async def metrics(self, job: Job, *, rank: int = 0) -> dict[str, Curve]:
        """As `Inspection.metrics`."""
        kept: list[Metrics] = []
        for attempt in range(1, job.attempt):
            with suppress(NotFound):
                kept.append(await self._metrics(job, attempt, rank))
        try:
            kept.append(await self._metrics(job, job.attempt, rank))
        except NotFound:
            if not kept:
                raise
        return merged(kept)

    async def _metrics(self, job: Job, attempt: int, rank: int) -> Metrics:
        return await self._stub.GetMetrics(GetMetricsRequest(name=task_name(job, attempt, rank)))

    async def stacks(self, job: Job, *, rank: int = 0) -> Stacks:
        """As `Inspection.stacks`."""
        return await self._stub.DumpStacks(DumpStacksRequest(name=task_name(job, job.attempt, rank)))

    async def profile(
        self, job: Job, *, rank: int = 0, steps: int = 5, timeout_s: float = PROFILE_S
    ) -> bytes:
        """As `Inspection.profile`."""
        request = CaptureProfileRequest(name=task_name(job, job.attempt, rank), steps=steps)
        return b"".join([part.data async for part in self._stub.CaptureProfile(request, timeout=timeout_s)])
