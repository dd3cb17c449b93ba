"""What can be seen of the tasks of jobs: the scheduler knows which node to ask, and passes on what it says."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from threading import BoundedSemaphore
from typing import Any, TypeVar

import grpc

from headrace.errors import DeadlineExceeded, HeadraceError, NotFound, Unavailable
from headrace.names import TaskName
from headrace.rpc.channel import open_channel
from headrace.rpc.layers import current_call
from headrace.tasks.v1.inspection_pb2 import (
    CaptureProfileRequest,
    CaptureProfileResponse,
    DumpStacksRequest,
    GetMetricsRequest,
    Metrics,
    ReadLogRequest,
    ReadLogResponse,
    Stacks,
)
from headrace.tasks.v1.inspection_pb2_grpc import InspectionServicer as GeneratedServicer
from headrace.tasks.v1.inspection_pb2_grpc import InspectionStub
from headrace_scheduler.core.jobs import job_of_task
from headrace_scheduler.core.whereabouts import places_of_task
from headrace_scheduler.engine import Engine
from headrace_scheduler.watches import watching

Answer = TypeVar("Answer")

SHORT_S = 10.0  # answered from memory, or from a small file


class InspectionServicer(GeneratedServicer):
    """Serves headrace.tasks.v1.Inspection for the tasks of all jobs; `watches` bounds the streams of this and the other servicers."""

    def __init__(self, engine: Engine, watches: BoundedSemaphore) -> None:
        self._engine = engine
        self._watches = watches

    def ReadLog(self, request: ReadLogRequest, context: grpc.ServicerContext) -> Iterator[ReadLogResponse]:
        """Pass a log on."""
        return self._stream(request.name, lambda stub: stub.ReadLog(request))

    def CaptureProfile(
        self, request: CaptureProfileRequest, context: grpc.ServicerContext
    ) -> Iterator[CaptureProfileResponse]:
        """Pass a profile on."""
        return self._stream(request.name, lambda stub: stub.CaptureProfile(request))

    def DumpStacks(self, request: DumpStacksRequest, context: grpc.ServicerContext) -> Stacks:
        """Pass stacks on."""
        return self._ask(request.name, lambda stub: stub.DumpStacks(request, timeout=SHORT_S))

    def GetMetrics(self, request: GetMetricsRequest, context: grpc.ServicerContext) -> Metrics:
        """Pass measures on."""
        return self._ask(request.name, lambda stub: stub.GetMetrics(request, timeout=SHORT_S))

    def _stream(self, name: str, begin: Callable[[InspectionStub], Iterator[Answer]]) -> Iterator[Answer]:
        """Yield the answers of the first node that knows the task; see `_ask`."""
        call = current_call()
        nowhere: HeadraceError = _unknown(name)
        with watching(self._watches, self._engine, call):
            for address in self._places(name):
                with open_channel(address) as channel:
                    answers = begin(InspectionStub(channel))
                    call.on_end(partial(_cancel, answers))
                    try:
                        yield from answers
                    except NotFound:
                        continue
                    except Unavailable as gone:
                        nowhere = gone
                        continue
                    return
        raise nowhere

    def _ask(self, name: str, call: Callable[[InspectionStub], Answer]) -> Answer:
        """Return the answer of the first node that knows the task.

        Raises:
            NotFound: None does.
            Unavailable, DeadlineExceeded: A node that may know it cannot be asked.
        """
        nowhere: HeadraceError = _unknown(name)
        for address in self._places(name):
            try:
                with open_channel(address) as channel:
                    return call(InspectionStub(channel))
            except NotFound:
                continue
            except (Unavailable, DeadlineExceeded) as gone:
                nowhere = gone
        raise nowhere

    def _places(self, name: str) -> list[str]:
        """List where the task may be or have been, the likeliest first."""
        TaskName.parse(name)
        job = None
        with suppress(NotFound):
            job = self._engine.job(job_of_task(name))
        return self._engine.read(lambda tables: places_of_task(tables, name, job))


def _cancel(call: Any) -> None:
    call.cancel()


def _unknown(name: str) -> NotFound:
    return NotFound(
        f"no attached node keeps anything of {name}; its node is gone, or it ended too long ago", field="name"
    )
