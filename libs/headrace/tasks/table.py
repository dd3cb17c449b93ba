"""What tasks a node has and how they may change. Pure: no thread, process or clock.

A task moves forward only: STARTING → RUNNING → (STOPPING →) SUCCEEDED | FAILED | STOPPED. It is final when its process is gone,
not when the process says it is done, so that a slot is never given to two processes at once.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.timestamp_pb2 import Timestamp

from headrace.errors import AlreadyExists, NotFound, ResourceExhausted, StaleEpoch
from headrace.tasks.bounds import bound_event, bounded
from headrace.types.v1.task_pb2 import Failure, Task, TaskState

FINAL = frozenset({TaskState.TASK_STATE_SUCCEEDED, TaskState.TASK_STATE_FAILED, TaskState.TASK_STATE_STOPPED})
# Enough to look back on; the scheduler forgets what it has recorded long before.
KEPT_FINAL_TASKS = 100


@dataclass
class _Entry:
    task: Task
    body_digest: bytes
    # What the process reported about its end: a Task with `result` or `failure`, or an empty one.
    outcome: Task = field(default_factory=Task)


class TaskTable:
    """The tasks of one node, newest last. Returned tasks are copies."""

    def __init__(self, slots: int, kept_final: int = KEPT_FINAL_TASKS) -> None:
        """Begin empty.

        Args:
            slots: Tasks that may run at a time, >= 1.
            kept_final: Final tasks remembered; the oldest are dropped first.
        """
        self.slots = slots
        self._kept_final = kept_final
        self._entries: dict[str, _Entry] = {}
        self._revision = 0

    def start(self, name: str, epoch: int, body_digest: bytes, now: float) -> tuple[Task, bool]:
        """Take a task, once.

        Args:
            body_digest: Tells whether two requests of this name are the same.
            now: Seconds since 1970.
        Returns:
            The task, and whether it is new: only then is there a process to start.
        Raises:
            AlreadyExists: The name belongs to another request.
            StaleEpoch: The name belongs to a later attempt.
            ResourceExhausted: All slots are taken.
        """
        known = self._entries.get(name)
        if known and known.body_digest == body_digest:
            return _copy(known.task), False
        if known:
            _check_replaceable(known.task, epoch)
        self._check_slot()
        self._entries.pop(name, None)  # a replaced task is a new one, also in the order of the table
        task = Task(name=name, epoch=epoch, state=TaskState.TASK_STATE_STARTING, create_time=_timestamp(now))
        self._entries[name] = _Entry(task, body_digest)
        return self._changed(task), True

    def apply(self, name: str, event: Task) -> None:
        """Take what the process reports: `progress`, `checkpoint`, `best`, `rendezvous`, `ready`, `result` or `failure`; an empty event says that work began."""
        entry = self._entry(name)
        task = entry.task
        if task.state in FINAL:
            return
        bound_event(event)
        if task.state == TaskState.TASK_STATE_STARTING:
            task.state = TaskState.TASK_STATE_RUNNING
        if event.HasField("progress"):
            task.progress.CopyFrom(event.progress)
        if event.HasField("checkpoint"):
            task.checkpoint.CopyFrom(event.checkpoint)
        if event.HasField("best"):
            task.best.CopyFrom(event.best)
        if event.rendezvous:
            task.rendezvous = event.rendezvous
        task.ready |= event.ready
        if event.HasField("result") or event.HasField("failure"):
            entry.outcome.CopyFrom(event)
        self._changed(task)

    def stop(self, name: str) -> Task:
        """Note that the task is being ended; a final task stays as it is.

        Raises:
            NotFound: There is no such task.
        """
        task = self._entry(name).task
        if task.state in FINAL or task.state == TaskState.TASK_STATE_STOPPING:
            return _copy(task)
        task.state = TaskState.TASK_STATE_STOPPING
        return self._changed(task)

    def exited(self, name: str, crash: Failure, now: float) -> None:
        """Make the task final: its process is gone.

        Args:
            crash: Why, should it have left without a word.
        """
        entry = self._entry(name)
        task = entry.task
        if task.state in FINAL:
            return
        if entry.outcome.HasField("result"):
            task.state = TaskState.TASK_STATE_SUCCEEDED
            task.result.CopyFrom(entry.outcome.result)
        elif task.state == TaskState.TASK_STATE_STOPPING:
            task.state = TaskState.TASK_STATE_STOPPED
        else:
            task.state = TaskState.TASK_STATE_FAILED
            task.failure.CopyFrom(
                entry.outcome.failure if entry.outcome.HasField("failure") else bounded(crash)
            )
        task.end_time.CopyFrom(_timestamp(now))
        self._changed(task)
        self._drop_oldest_final()

    def get(self, name: str) -> Task:
        """Return one task.

        Raises:
            NotFound: There is no such task.
        """
        return _copy(self._entry(name).task)

    def tasks(self) -> list[Task]:
        """Return all tasks, oldest first."""
        return [_copy(entry.task) for entry in self._entries.values()]

    def running(self) -> list[str]:
        """Name the tasks that are not final."""
        return [name for name, entry in self._entries.items() if entry.task.state not in FINAL]

    def forget(self, names: Iterable[str]) -> None:
        """Drop those of `names` that are final."""
        for name in names:
            entry = self._entries.get(name)
            if entry and entry.task.state in FINAL:
                del self._entries[name]

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise NotFound(f"this node has no task {name}; ListTasks shows those it has", field="name")
        return entry

    def _changed(self, task: Task) -> Task:
        # One counter for the whole table: the revisions of a name grow even when a new attempt takes it.
        self._revision += 1
        task.revision = self._revision
        return _copy(task)

    def _check_slot(self) -> None:
        running = self.running()
        if len(running) >= self.slots:
            raise ResourceExhausted(
                f"all {self.slots} slots are taken by {', '.join(running)}; wait for one to end, or stop it",
                metadata={"slots": self.slots, "running": ",".join(running)},
            )

    def _drop_oldest_final(self) -> None:
        final = [name for name, entry in self._entries.items() if entry.task.state in FINAL]
        for name in final[: max(0, len(final) - self._kept_final)]:
            del self._entries[name]


def _check_replaceable(task: Task, epoch: int) -> None:
    if epoch < task.epoch:
        raise StaleEpoch(
            f"{task.name} belongs to epoch {task.epoch}; epoch {epoch} has been replaced and must stop"
        )
    if epoch == task.epoch:
        raise AlreadyExists(
            f"{task.name} was started with another request; choose another name", field="name"
        )
    if task.state not in FINAL:
        raise AlreadyExists(
            f"{task.name} still runs as epoch {task.epoch}; stop it before starting epoch {epoch}",
            field="name",
        )


def _copy(task: Task) -> Task:
    copy = Task()
    copy.CopyFrom(task)
    return copy


def _timestamp(now: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(round(now * 1e9))
    return stamp
