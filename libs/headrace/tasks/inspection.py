"""The wire of what can be seen of a task: the node's own files, and its processes."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc

from headrace.errors import FailedPrecondition, InvalidArgument, NotFound
from headrace.names import TaskName
from headrace.tasks.frames import PROFILE
from headrace.tasks.history import read_history
from headrace.tasks.log import CHUNK_BYTES, read_log, tail_offset
from headrace.tasks.profiles import MOST_STEPS, USUAL_STEPS, new_order, wait_for_trace
from headrace.tasks.records import Records
from headrace.tasks.service import RunningTask, TaskService
from headrace.tasks.stacks import dump_stacks
from headrace.tasks.v1.inspection_pb2 import (
    CaptureProfileRequest,
    CaptureProfileResponse,
    DumpStacksRequest,
    GetMetricsRequest,
    Metrics,
    ReadLogRequest,
    ReadLogResponse,
    Series,
    Stacks,
)
from headrace.tasks.v1.inspection_pb2_grpc import InspectionServicer as GeneratedServicer

MOST_TAIL_LINES = 100_000
_FOLLOW_S = 0.2  # between two looks at a log that is followed


class InspectionServicer(GeneratedServicer):
    """Serves headrace.tasks.v1.Inspection for the tasks of one node."""

    def __init__(self, tasks: TaskService, records: Records) -> None:
        self._tasks = tasks
        self._records = records

    def ReadLog(self, request: ReadLogRequest, context: grpc.ServicerContext) -> Iterator[ReadLogResponse]:
        """Stream a task's log."""
        folder = self._folder(request.name, request.epoch)
        if request.tail_lines > MOST_TAIL_LINES:
            raise InvalidArgument(
                f"tail_lines is {request.tail_lines}; ask for at most {MOST_TAIL_LINES}, or for an offset",
                field="tail_lines",
            )
        offset = tail_offset(folder, request.tail_lines) if request.tail_lines else request.offset
        pause = threading.Event()
        while context.is_active():
            going_on = request.follow and self._goes_on(
                request.name, folder
            )  # asked first: it may print until it ends
            begin, data = read_log(folder, offset)
            if data:
                yield ReadLogResponse(offset=begin, data=data)
                offset = begin + len(data)
            elif not going_on:
                return
            else:
                pause.wait(_FOLLOW_S)

    def GetMetrics(
        self,
        request: GetMetricsRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - gRPC passes it
    ) -> Metrics:
        """Return what a task has measured."""
        history = read_history(self._folder(request.name, request.epoch))
        return Metrics(
            series=[Series(name=name, steps=one.steps, values=one.values) for name, one in history.items()]
        )

    def DumpStacks(self, request: DumpStacksRequest, context: grpc.ServicerContext) -> Stacks:  # noqa: ARG002 - gRPC passes it
        """Say where a task is."""
        TaskName.parse(request.name)
        folder = self._folder(request.name, 0)
        source, text = dump_stacks(self._running(request.name).pid, folder)
        return Stacks(source=source, text=text)

    def CaptureProfile(
        self, request: CaptureProfileRequest, context: grpc.ServicerContext
    ) -> Iterator[CaptureProfileResponse]:
        """Record steps of a task, and stream the trace."""
        TaskName.parse(request.name)
        if request.steps > MOST_STEPS:
            raise InvalidArgument(
                f"steps is {request.steps}; at most {MOST_STEPS} are recorded", field="steps"
            )
        order, folder = new_order(request.steps or USUAL_STEPS), self._folder(request.name, 0)
        self._running(request.name).order(PROFILE + order.encode())
        trace = wait_for_trace(folder, order, context.is_active, lambda: self._tasks.is_running(request.name))
        if trace is None:
            return
        with trace.open("rb") as file:
            while data := file.read(CHUNK_BYTES):
                yield CaptureProfileResponse(data=data)

    def _folder(self, name: str, epoch: int) -> Path:
        return self._records.find(TaskName.parse(name), epoch)

    def _running(self, name: str) -> RunningTask:
        """Return the process of a task that this node has a record of; FailedPrecondition unless it runs."""
        try:
            return self._tasks.running(name)
        except NotFound:  # it was forgotten as soon as the scheduler knew how it ended
            raise FailedPrecondition(f"{name} has ended; only a task that runs can be looked into") from None

    def _goes_on(self, name: str, folder: Path) -> bool:
        return self._tasks.is_running(name) and folder == self._folder(name, 0)
