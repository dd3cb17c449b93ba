"""The table of a node's tasks, their processes and those who watch them, behind one lock."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Protocol

from google.protobuf.message import Message

from headrace.errors import FailedPrecondition, ResourceExhausted, ServerDraining, StaleEpoch, Unavailable
from headrace.names import TaskName
from headrace.tasks.frames import TELL
from headrace.tasks.table import FINAL, TaskTable
from headrace.types.v1.task_pb2 import Failure, Task, TaskState

# How long a watcher may go unnoticed after its call ended.
_WATCH_POLL_S = 0.5
_KILL_S = 5.0


class RunningTask(Protocol):
    """What the service can do to a task that runs."""

    def stop(self) -> None:
        """Ask it to end, and see to it that it does. Returns at once."""

    def kill(self) -> None:
        """End it now."""

    def order(self, frame: bytes) -> bool:
        """Tell it something, and return whether that was possible."""

    @property
    def pid(self) -> int:
        """Id of its process."""


class Launch(Protocol):
    """Starts the process of a task; `headrace.tasks.process.Launcher` is one."""

    def __call__(
        self,
        name: TaskName,
        epoch: int,
        request: bytes,
        on_event: Callable[[Task], None],
        on_exit: Callable[[Failure], None],
    ) -> RunningTask:
        """Start it; the two functions are called from another thread, `on_exit` once and last."""


class TaskService:
    """Starts, shows and stops tasks. All methods may be called from any thread."""

    def __init__(self, table: TaskTable, launch: Launch, clock: Callable[[], float]) -> None:
        """Begin.

        Args:
            clock: Returns seconds since 1970.
        """
        self._table = table
        self._launch = launch
        self._clock = clock
        self._running: dict[str, RunningTask] = {}
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._closed = False

    @property
    def slots(self) -> int:
        """Tasks that may run at a time."""
        return self._table.slots

    def start(self, name: str, epoch: int, request: Message) -> Task:
        """Start a task, once: a repeat returns it as it is.

        Raises:
            InvalidArgument: `name` is not a task's name.
            ServerDraining: The service is about to leave.
            AlreadyExists, StaleEpoch, ResourceExhausted: As in `TaskTable.start`.
        """
        task_name = TaskName.parse(name)
        body = request.SerializeToString(deterministic=True)
        with self._changed:
            if self._closed:
                raise ServerDraining("this node is shutting down; start the task on another one")
            task, is_new = self._table.start(name, epoch, hashlib.sha256(body).digest(), self._clock())
            if is_new:
                self._start_process(task_name, epoch, body)
                self._notify()
            return task

    def get(self, name: str) -> Task:
        """Return one task; NotFound if there is none."""
        with self._changed:
            return self._table.get(name)

    def is_running(self, name: str) -> bool:
        """Tell whether there is a process of this task."""
        with self._changed:
            return name in self._running

    def running(self, name: str) -> RunningTask:
        """Return the process of a task whose work has begun.

        Raises:
            NotFound: There is no such task.
            FailedPrecondition: It has not begun, or has ended.
        """
        with self._changed:
            state = self._table.get(name).state
            running = self._running.get(name)
            if running is None or state == TaskState.TASK_STATE_STARTING:
                raise FailedPrecondition(
                    f"{name} is {TaskState.Name(state).removeprefix('TASK_STATE_')}; only a task that runs can be looked into"
                )
            return running

    def tasks(self) -> list[Task]:
        """Return all tasks, oldest first."""
        with self._changed:
            return self._table.tasks()

    def stop(self, name: str) -> Task:
        """Begin to end a task, and return it; a final one stays as it is. NotFound if there is none."""
        with self._changed:
            task = self._table.stop(name)
            running = self._running.get(name)
            if running:
                running.stop()
            self._notify()
            return task

    def tell(self, name: str, epoch: int, word: bytes) -> Task:
        """Tell a task of an attempt something; one that has ended stays as it is.

        Raises:
            NotFound: There is no such task.
            StaleEpoch: It is of another attempt.
            Unavailable: Its process cannot hear yet.
        """
        task = self.get(name)
        if task.epoch != epoch:
            raise StaleEpoch(
                f"{name} belongs to epoch {task.epoch}; what epoch {epoch} is told is not for it"
            )
        with self._changed:
            running = self._running.get(name)
        if running and task.state not in FINAL and not running.order(TELL + word):
            raise Unavailable(f"the process of {name} is still being started; try again")
        return task

    def forget(self, names: Iterable[str]) -> None:
        """Drop final tasks that somebody has recorded."""
        with self._changed:
            self._table.forget(names)
            self._notify()

    def watch(self, name: str, after_revision: int, is_active: Callable[[], bool]) -> Iterator[Task]:
        """Yield the task whenever its revision has grown beyond `after_revision`, until it is final.

        Args:
            is_active: Whether somebody still listens; asked twice a second.
        Raises:
            NotFound: There is no such task, or no longer.
        """
        while is_active():
            task = self._next(name, after_revision)
            if task.revision > after_revision or after_revision == 0:
                yield task
                after_revision = task.revision
            if task.state in FINAL:
                return

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change of a task; it must return at once and not call back."""
        with self._changed:
            self._listeners.append(listener)

    def close(self, timeout_s: float) -> None:
        """Take no more tasks, ask those that run to end, and kill what is left after `timeout_s`."""
        with self._changed:
            self._closed = True
            for name, running in self._running.items():
                self._table.stop(name)
                running.stop()
            self._notify()
            if not self._changed.wait_for(lambda: not self._running, timeout_s):
                for running in self._running.values():
                    running.kill()
                self._changed.wait_for(lambda: not self._running, _KILL_S)

    def _start_process(self, name: TaskName, epoch: int, body: bytes) -> None:
        key = str(name)
        try:
            self._running[key] = self._launch(
                name, epoch, body, partial(self._on_event, key), partial(self._on_exit, key)
            )
        except OSError as error:
            self._table.exited(key, Failure(), self._clock())
            self._table.forget([key])
            raise ResourceExhausted(
                f"cannot start a process for {key}: {error}; free what is used up on this machine, or use another node"
            ) from error

    def _notify(self) -> None:
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def _on_event(self, name: str, event: Task) -> None:
        with self._changed:
            self._table.apply(name, event)
            self._notify()

    def _on_exit(self, name: str, crash: Failure) -> None:
        with self._changed:
            self._table.exited(name, crash, self._clock())
            del self._running[name]
            self._notify()

    def _next(self, name: str, after_revision: int) -> Task:
        """Return the task when its revision exceeds `after_revision`, or as it is after a while."""
        with self._changed:
            task = self._table.get(name)
            if task.revision <= after_revision and task.state not in FINAL:
                self._changed.wait(_WATCH_POLL_S)
                task = self._table.get(name)
            return task
