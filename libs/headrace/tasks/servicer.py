"""The four rpcs that every service with tasks shares; its servicer inherits them and adds StartTask."""

from collections.abc import Iterator

import grpc

from headrace.names import ProjectName, TaskName
from headrace.paging import PageRequest
from headrace.tasks.service import TaskService
from headrace.types.v1.task_pb2 import (
    GetTaskRequest,
    ListTasksRequest,
    ListTasksResponse,
    StopTaskRequest,
    Task,
    WatchTaskRequest,
    WatchTaskResponse,
)


class TaskServicer:
    """GetTask, ListTasks, WatchTask and StopTask over a `TaskService`."""

    def __init__(self, tasks: TaskService) -> None:
        self._tasks = tasks

    def GetTask(self, request: GetTaskRequest, context: grpc.ServicerContext) -> Task:  # noqa: ARG002 - gRPC passes it
        """Return one task."""
        TaskName.parse(request.name)
        return self._tasks.get(request.name)

    def ListTasks(
        self,
        request: ListTasksRequest,
        context: grpc.ServicerContext,  # noqa: ARG002 - gRPC passes it
    ) -> ListTasksResponse:
        """Return a page of a project's tasks, newest first."""
        prefix = f"{ProjectName.parse(request.parent, field='parent')}/"
        asked = PageRequest.parse(request.page_size, request.page_token, "ListTasks", request.parent)
        tasks = [task for task in self._tasks.tasks() if task.name.startswith(prefix)]
        page = asked.page_of_all(sorted(tasks, key=_age, reverse=True), _age, descending=True)
        return ListTasksResponse(tasks=page.items, next_page_token=page.next_page_token)

    def WatchTask(
        self, request: WatchTaskRequest, context: grpc.ServicerContext
    ) -> Iterator[WatchTaskResponse]:
        """Stream a task's changes until it is final."""
        TaskName.parse(request.name)
        for task in self._tasks.watch(request.name, request.after_revision, context.is_active):
            yield WatchTaskResponse(task=task)

    def StopTask(self, request: StopTaskRequest, context: grpc.ServicerContext) -> Task:  # noqa: ARG002 - gRPC passes it
        """Begin to end a task."""
        TaskName.parse(request.name)
        return self._tasks.stop(request.name)


def _age(task: Task) -> tuple[int, str]:
    return task.create_time.ToNanoseconds(), task.name
