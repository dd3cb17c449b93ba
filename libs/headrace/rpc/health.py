"""Health of a server and of each of its services, by the standard protocol `grpc.health.v1`.

Ours, because the servicer that comes with gRPC sends to watchers while it holds its lock, and takes the same lock on
gRPC's own thread when a watcher leaves: the two wait for each other, and with them the whole server
(tests/services/headrace/test_server_bounds.py shows it).
"""

import threading
from collections.abc import Iterator

import grpc
from grpc_health.v1.health_pb2 import (
    HealthCheckRequest,
    HealthCheckResponse,
    HealthListRequest,
    HealthListResponse,
)
from grpc_health.v1.health_pb2_grpc import HealthServicer

from headrace.errors import NotFound, TooManyCalls
from headrace.rpc.layers import current_call

Status = int  # HealthCheckResponse.ServingStatus
OVERALL = ""  # the name of the server as a whole


class Health(HealthServicer):  # type: ignore[misc]  # the package ships no types
    """Answers how the services are, and tells watchers of every change.

    Args:
        max_watchers: Each keeps a thread of the server, so their number is bounded.
    """

    def __init__(self, max_watchers: int) -> None:
        self._max_watchers = max_watchers
        self._watchers = 0
        self._statuses: dict[str, Status] = {OVERALL: HealthCheckResponse.SERVING}
        self._leaving = False
        self._changed = threading.Condition()  # never held while something is sent

    def set(self, service: str, *, serving: bool) -> None:
        """Change the status of a service."""
        with self._changed:
            if not self._leaving:
                self._statuses[service] = _status(serving)
                self._changed.notify_all()

    def leave(self) -> None:
        """Report NOT_SERVING for everything from now on, and end all watches after they have said so."""
        with self._changed:
            self._leaving = True
            self._statuses = dict.fromkeys(self._statuses, _status(serving=False))
            self._changed.notify_all()

    def Check(self, request: HealthCheckRequest, context: grpc.ServicerContext) -> HealthCheckResponse:  # noqa: ARG002
        """Answer how a service is."""
        with self._changed:
            status = self._statuses.get(request.service)
        if status is None:
            raise NotFound(
                f"no service {request.service!r} is served here; an empty name asks for the whole server"
            )
        return HealthCheckResponse(status=status)

    def List(self, request: HealthListRequest, context: grpc.ServicerContext) -> HealthListResponse:  # noqa: ARG002
        """Answer how all services are."""
        with self._changed:
            statuses = dict(self._statuses)
        return HealthListResponse(
            statuses={name: HealthCheckResponse(status=status) for name, status in statuses.items()}
        )

    def Watch(
        self,
        request: HealthCheckRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> Iterator[HealthCheckResponse]:
        """Send how a service is, now and after every change."""
        self._begin_watch()
        try:
            current_call().on_end(self._wake)
            for status in self._statuses_of(request.service):
                yield HealthCheckResponse(status=status)
        finally:
            self._end_watch()

    def _statuses_of(self, service: str) -> Iterator[Status]:
        sent: Status | None = None
        while (status := self._next(service, sent)) is not None:
            yield status
            sent = status

    def _next(self, service: str, sent: Status | None) -> Status | None:
        """Wait for a status other than `sent`; return None when the watch is over."""
        call = current_call()
        with self._changed:
            self._changed.wait_for(lambda: call.ended or self._leaving or self._now(service) != sent)
            status = self._now(service)
            return None if call.ended or status == sent else status

    def _now(self, service: str) -> Status:
        unknown: Status = HealthCheckResponse.SERVICE_UNKNOWN
        return self._statuses.get(service, unknown)

    def _begin_watch(self) -> None:
        with self._changed:
            if self._watchers >= self._max_watchers:
                raise TooManyCalls(
                    f"{self._max_watchers} callers watch already; call Check from time to time instead"
                )
            self._watchers += 1

    def _end_watch(self) -> None:
        with self._changed:
            self._watchers -= 1

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


def _status(serving: bool) -> Status:
    status: Status = HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING
    return status
