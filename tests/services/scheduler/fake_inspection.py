"""What a fake node keeps of its tasks: whatever the test put there, and nothing after it."""

from collections.abc import Callable, Iterator, Mapping

import grpc

from headrace.errors import FailedPrecondition, NotFound
from headrace.tasks.v1 import inspection_pb2, inspection_pb2_grpc


class FakeInspection(inspection_pb2_grpc.InspectionServicer):
    """Logs of a node's tasks; `called` hears of every call."""

    def __init__(self, logs: Mapping[str, list[bytes]], called: Callable[[str], None]) -> None:
        self._logs = logs
        self._called = called

    def ReadLog(
        self, request: inspection_pb2.ReadLogRequest, context: grpc.ServicerContext
    ) -> Iterator[inspection_pb2.ReadLogResponse]:
        self._called(f"log {request.name}")
        if request.name not in self._logs:
            raise NotFound(f"this node keeps nothing of {request.name}")
        for number, data in enumerate(self._logs[request.name]):
            yield inspection_pb2.ReadLogResponse(offset=number, data=data)

    def GetMetrics(
        self, request: inspection_pb2.GetMetricsRequest, context: grpc.ServicerContext
    ) -> inspection_pb2.Metrics:
        self._called(f"metrics {request.name}")
        if request.name not in self._logs:
            raise NotFound(f"this node keeps nothing of {request.name}")
        return inspection_pb2.Metrics(series=[inspection_pb2.Series(name="loss", steps=[1], values=[0.5])])

    def DumpStacks(
        self, request: inspection_pb2.DumpStacksRequest, context: grpc.ServicerContext
    ) -> inspection_pb2.Stacks:
        if request.name not in self._logs:
            raise NotFound(f"this node keeps nothing of {request.name}")
        return inspection_pb2.Stacks(source="faulthandler", text="in a fake")

    def CaptureProfile(
        self, request: inspection_pb2.CaptureProfileRequest, context: grpc.ServicerContext
    ) -> Iterator[inspection_pb2.CaptureProfileResponse]:
        if request.name not in self._logs:
            raise FailedPrecondition("the task has no steps")
        for data in self._logs[request.name]:
            yield inspection_pb2.CaptureProfileResponse(data=data)
