"""The wire of the optimization service: translates messages, calls the core, returns."""

from collections.abc import Callable, Sequence

import grpc

from headrace.errors import NotFound
from headrace.optimization.v1.optimizer_pb2 import (
    ListPassesRequest,
    ListPassesResponse,
    Pass,
    StartTaskRequest,
)
from headrace.optimization.v1.optimizer_pb2_grpc import OptimizerServicer as GeneratedServicer
from headrace.program.loading import check_allowed
from headrace.registry.v1.models_pb2 import Version
from headrace.tasks.service import TaskService
from headrace.tasks.servicer import TaskServicer
from headrace.types.v1.task_pb2 import Task
from headrace_optimization.core.plan import PASSES
from headrace_optimization.wire import check_request, weights_of


class OptimizerServicer(TaskServicer, GeneratedServicer):
    """Serves headrace.optimization.v1.Optimizer.

    Args:
        get_version: Finds a version in the registry; NotFound if there is none.
        allowed_modules, allow_archives: As in `headrace.program.loading.check_allowed`.
    """

    def __init__(
        self,
        tasks: TaskService,
        get_version: Callable[[str], Version],
        *,
        allowed_modules: Sequence[str],
        allow_archives: bool,
    ) -> None:
        super().__init__(tasks)
        self._get_version = get_version
        self._allowed_modules = allowed_modules
        self._allow_archives = allow_archives

    def StartTask(self, request: StartTaskRequest, context: grpc.ServicerContext) -> Task:
        """Start a pipeline, if what it needs is there."""
        check_request(request)
        if not self._is_known(request.name):  # a repeat gets its task even while the registry is away
            self._check_version(self._get_version(request.version))
        return self._tasks.start(request.name, request.epoch, request)

    def ListPasses(self, request: ListPassesRequest, context: grpc.ServicerContext) -> ListPassesResponse:
        """Return the passes in their order."""
        return ListPassesResponse(passes=[Pass(id=one.id, description=one.description) for one in PASSES])

    def _is_known(self, name: str) -> bool:
        try:
            self._tasks.get(name)
        except NotFound:
            return False
        return True

    def _check_version(self, version: Version) -> None:
        weights_of(version)
        check_allowed(
            version.program, allowed_modules=self._allowed_modules, allow_archives=self._allow_archives
        )
