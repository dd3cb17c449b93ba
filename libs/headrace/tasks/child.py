"""A task seen from inside its subprocess: read the request, do the work, report.

def work(request: StartTaskRequest, context: Context, reporter: Reporter) -> TaskResult: ...

if __name__ == "__main__":
    run_task(StartTaskRequest, work)
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeVar

from google.protobuf.message import Message

from headrace.errors import Cancelled, FailedPrecondition, HeadraceError, ProgramFailed
from headrace.tasks.bounds import MAX_MESSAGE, bounded
from headrace.tasks.descendants import MARK, end_marked
from headrace.tasks.frames import PROFILE, STOP, TELL, BrokenFrameError, read_frame, write_frame
from headrace.tasks.limits import memory_limit
from headrace.tasks.profiles import Order, refuse
from headrace.tasks.records import RECORD
from headrace.tasks.stacks import listen
from headrace.telemetry.logs import setup_logs
from headrace.types.v1.task_pb2 import Checkpoint, Failure, Progress, Task, TaskResult

Request = TypeVar("Request", bound=Message)
Context = Mapping[str, Any]
MIN_PROGRESS_INTERVAL_S = 0.1
_DETAIL_LINES = 30


class Reporter:
    """The task's way to speak to its service, and to hear that it should stop. Safe to use from several threads."""

    def __init__(self, pipe: BinaryIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._pipe = pipe
        self._clock = clock
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._on_stop: list[Callable[[], None]] = []
        self._take_profile: Callable[[Order], None] = _without_steps
        self._hear: Callable[[bytes], None] | None = None
        self._unheard: list[bytes] = []
        self._waiting: Task | None = None
        self._sent_at = float("-inf")

    @property
    def stop_requested(self) -> bool:
        """Whether the task should end soon; it has a few seconds."""
        return self._stop.is_set()

    def raise_if_stopped(self) -> None:
        """End the work here if it should end.

        Raises:
            Cancelled: The task was asked to stop.
        """
        if self.stop_requested:
            raise Cancelled("the task was asked to stop")

    def on_stop(self, interrupt: Callable[[], None]) -> None:
        """Call `interrupt`, from another thread, when the task should end: for work that waits where it cannot look."""
        with self._lock:
            self._on_stop.append(interrupt)
            if not self.stop_requested:
                return
        interrupt()

    def on_profile(self, take: Callable[[Order], None]) -> None:
        """Call `take`, from another thread, when somebody wants the next steps to be recorded; it raises what speaks against it."""
        self._take_profile = take

    def request_profile(self, order: Order, folder: Path) -> None:
        """Let the work know that its next steps are to be recorded, or whoever asked that they cannot be."""
        try:
            self._take_profile(order)
        except FailedPrecondition as error:
            refuse(folder, order, error.message)

    def on_told(self, hear: Callable[[bytes], None]) -> None:
        """Call `hear`, from another thread, with what the service tells this task: what it has told until now first."""
        with self._lock:
            self._hear = hear
            unheard, self._unheard = self._unheard, []
            for word in unheard:
                hear(word)

    def told(self, word: bytes) -> None:
        """Let the work know what its service says."""
        with self._lock:
            if self._hear is None:
                self._unheard.append(word)
            else:
                self._hear(word)

    def request_stop(self) -> None:
        """Let the work know that it should end."""
        with self._lock:
            self._stop.set()
            interrupts = list(self._on_stop)
        for interrupt in interrupts:
            interrupt()

    def progress(self, step: int, total_steps: int, stage: str, metrics: Mapping[str, float]) -> None:
        """Say how far the work is. Of calls in quick succession some are skipped, but never the last one before anything else."""
        event = Task(progress=Progress(step=step, total_steps=total_steps, stage=stage, metrics=metrics))
        with self._lock:
            self._waiting = event
            if self._clock() - self._sent_at >= MIN_PROGRESS_INTERVAL_S:
                self._flush()

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Say from where the work could go on."""
        self.send(Task(checkpoint=checkpoint))

    def send(self, event: Task) -> None:
        """Send an event, after the progress that is still waiting."""
        with self._lock:
            self._flush()
            self._write(event)

    def _flush(self) -> None:
        if self._waiting is not None:
            self._write(self._waiting)
            self._waiting = None
            self._sent_at = self._clock()

    def _write(self, event: Task) -> None:
        with contextlib.suppress(BrokenPipeError):  # the service is gone, and this process is about to go
            write_frame(self._pipe, event.SerializeToString())


def _without_steps(_order: Order) -> None:
    raise FailedPrecondition("this task has no steps that could be recorded, or none yet")


Work = Callable[[Request, Context, Reporter], TaskResult]


def run_task(request_type: type[Request], work: Work[Request]) -> NoReturn:
    """Be the subprocess of a task: never returns.

    Whatever `work` raises is reported as the task's failure: a `HeadraceError` with its own reason, anything else as PROGRAM_FAILED.
    """
    control, events = _take_pipes()
    request, context = read_frame(control), read_frame(control)
    if request is None or context is None:
        os._exit(1)  # the service went before it said what to do
    setup_logs("task", log_format="json")  # to standard error, which the service keeps
    reporter = Reporter(events)
    told = json.loads(context)
    folder = Path(told[RECORD])
    listen(folder)
    threading.Thread(target=_obey, args=(control, reporter, folder), name="control", daemon=True).start()
    outcome = _work(work, request_type.FromString(request), told, reporter)
    reporter.send(outcome)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: a thread the program left running must not keep the slot.
    os._exit(0)


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Return control and event pipe, out of reach of what the program reads from stdin or starts."""
    control = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    events = int(sys.argv[1])
    os.set_inheritable(events, False)
    return os.fdopen(control, "rb"), os.fdopen(events, "wb")


def _obey(control: BinaryIO, reporter: Reporter, folder: Path) -> None:
    """Pass STOP, PROFILE and TELL on; when the pipe ends the service is gone, and nobody waits for this task or could stop it: end it all."""
    mark = os.environ.get(MARK, "")  # before the program can change it
    with contextlib.suppress(BrokenFrameError):
        while (frame := read_frame(control)) is not None:
            if frame == STOP:
                reporter.request_stop()
            elif frame.startswith(PROFILE):
                reporter.request_profile(Order.decode(frame.removeprefix(PROFILE)), folder)
            elif frame.startswith(TELL):
                reporter.told(frame.removeprefix(TELL))
    end_marked(mark)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _work(work: Work[Request], request: Request, context: Context, reporter: Reporter) -> Task:
    reporter.send(Task())  # the work begins
    try:
        return Task(result=work(request, context, reporter))
    except HeadraceError as error:
        traceback.print_exc()
        return _failed(error.reason, error.message, _detail(error) if _by_program(error) else "")
    except MemoryError as error:
        traceback.print_exc()
        most = memory_limit()
        bound = f"; this node allows a task {most >> 20} MiB" if most else ""
        return _failed(ProgramFailed.reason, f"the program ran out of memory{bound}", _detail(error))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the top of a task: whatever the program raises is its failure
        traceback.print_exc()
        return _failed(ProgramFailed.reason, describe(error), _detail(error))


def _failed(reason: str, message: str, detail: str) -> Task:
    # Cut here already: an exception with the whole data in its text must not be larger than a frame.
    return Task(failure=bounded(Failure(reason=reason, message=message, detail=detail)))


def _by_program(error: HeadraceError) -> bool:
    """Tell whether the program raised what is behind an error of ours: else the message says all, and the traceback is the platform's."""
    return isinstance(error, ProgramFailed) and error.__context__ is not None


def describe(error: BaseException) -> str:
    """Put an exception into one line: its type and its text."""
    try:
        text = " ".join(str(error)[:MAX_MESSAGE].split())
    except Exception:  # noqa: BLE001 - the program's own __str__ may raise anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _detail(error: BaseException) -> str:
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(lines[-_DETAIL_LINES:])
