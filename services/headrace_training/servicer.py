"""The wire of the training service: translates messages, calls the core, returns."""

from collections.abc import Sequence

import grpc

from headrace.errors import FailedPrecondition
from headrace.program.loading import check_allowed
from headrace.tasks.service import TaskService
from headrace.tasks.servicer import TaskServicer
from headrace.training.v1.workers_pb2 import SetMembersRequest, StartTaskRequest
from headrace.training.v1.workers_pb2_grpc import WorkersServicer as GeneratedServicer
from headrace.types.v1.task_pb2 import Task
from headrace_training.wire import check_members, check_request, uses_store


class WorkersServicer(TaskServicer, GeneratedServicer):
    """Serves headrace.training.v1.Workers.

    Args:
        allowed_modules, allow_archives: As in `headrace.program.loading.check_allowed`.
        allowed_updates: Modules whose optimizers may run in a rank.
        has_registry: Whether archives can be fetched and versions made.
    """

    def __init__(
        self,
        tasks: TaskService,
        *,
        allowed_modules: Sequence[str],
        allow_archives: bool,
        has_registry: bool,
        allowed_updates: Sequence[str] = (),
    ) -> None:
        super().__init__(tasks)
        self._allowed_updates = allowed_updates
        self._allowed_modules = allowed_modules
        self._allow_archives = allow_archives
        self._has_registry = has_registry

    def StartTask(self, request: StartTaskRequest, context: grpc.ServicerContext) -> Task:
        """Start a rank, if it may run here."""
        check_request(request, self._allowed_updates)
        check_allowed(
            request.program, allowed_modules=self._allowed_modules, allow_archives=self._allow_archives
        )
        if not self._has_registry and _needs_registry(request):
            raise FailedPrecondition(
                "this worker has no registry, which `model`, a program's archive, `selection` and all-reduce checkpoints need; leave them "
                "out, or start it with HEADRACE_TRAINING_REGISTRY_ADDRESS"
            )
        return self._tasks.start(request.name, request.epoch, request)

    def SetMembers(self, request: SetMembersRequest, context: grpc.ServicerContext) -> Task:
        """Tell a rank who the members of its run are."""
        check_members(request)
        return self._tasks.tell(request.name, request.epoch, request.SerializeToString())


def _needs_registry(request: StartTaskRequest) -> bool:
    # Under PARAMETER_SERVER it is the shards that save checkpoints.
    saves = not uses_store(request.strategy) and (request.options.checkpoint_every_steps or request.snapshot)
    selects = request.options.HasField("selection")
    return bool(request.model or request.program.HasField("archive") or saves or selects)
