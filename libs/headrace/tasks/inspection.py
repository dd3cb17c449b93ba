"""The wire of what can be seen of a task: the node's own files, and its processes."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc

from headrace.errors import InvalidArgument
from headrace.names import TaskName
from headrace.tasks.history import read_history
from headrace.tasks.log import read_log, tail_offset
from headrace.tasks.records import Records
from headrace.tasks.service import TaskService
from headrace.tasks.v1.inspection_pb2 import (
    GetMetricsRequest,
    Metrics,
    ReadLogRequest,
    ReadLogResponse,
    Series,
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

    def _folder(self, name: str, epoch: int) -> Path:
        return self._records.find(TaskName.parse(name), epoch)

    def _goes_on(self, name: str, folder: Path) -> bool:
        return self._tasks.is_running(name) and folder == self._folder(name, 0)
