"""One task as a subprocess, seen from the service that started it.

The subprocess leads a session, and so a process group, of its own; whatever it starts ends with it, also what leaves the group
(see `descendants`). It is held to limits, sees a scrubbed environment, a working folder that is removed afterwards, and two pipes (see `frames`). It ends itself when the control pipe does, so even a
service that is killed leaves nothing behind.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError

from headrace.errors import TASK_CRASHED
from headrace.names import TaskName
from headrace.tasks.descendants import MARK, end_marked, new_mark
from headrace.tasks.frames import STOP, BrokenFrameError, read_frame, write_frame
from headrace.tasks.frozen import FROZEN, FROZEN_S, end_frozen
from headrace.tasks.limits import Limits
from headrace.tasks.log import CHUNK_BYTES, LogWriter
from headrace.tasks.records import RECORD, Kept, Records
from headrace.types.v1.task_pb2 import Failure, Task

# What a computation needs to find its libraries and devices. Nothing else passes: no key, no token, no setting of the service.
ENVIRONMENT = frozenset(
    {
        *("PATH", "HOME", "USER", "LANG", "LANGUAGE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"),
        *(
            "LD_LIBRARY_PATH",
            "DYLD_LIBRARY_PATH",
            "CUDA_HOME",
            "CUDA_VISIBLE_DEVICES",
            "NVIDIA_VISIBLE_DEVICES",
        ),
        *("NCCL_SOCKET_IFNAME", "NCCL_IB_DISABLE", "NCCL_IB_HCA", "NCCL_P2P_DISABLE", "NCCL_DEBUG"),
        *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    }
)
STOP_GRACE_S = 5.0  # from the polite request to SIGTERM: a few training steps and the last report
KILL_GRACE_S = 3.0  # from SIGTERM to SIGKILL
_DETAIL_LINES = 20
_PIPE_END_S = 10.0  # how long a process nobody could find may hold a pipe open after the task ended

OnEvent = Callable[[Task], None]
OnExit = Callable[[Failure], None]


class Launcher:
    """Starts tasks as `python -m <module>`; the module calls `headrace.tasks.child.run_task`."""

    def __init__(
        self,
        module: str,
        data_dir: Path,
        context: Mapping[str, object] | None = None,
        *,
        kept: Kept | None = None,
        limits: Limits | None = None,
        stop_grace_s: float = STOP_GRACE_S,
        kill_grace_s: float = KILL_GRACE_S,
        frozen_s: float = FROZEN_S,
    ) -> None:
        """Make the folders, and remove what a killed service left in them.

        Args:
            module: Name of the child's module.
            data_dir: The service's own folder; `work/` and `records/` below it belong to this launcher alone.
            context: What every task of the service is told beside its request; anything JSON can say.
            kept: How much is kept of the tasks.
            limits: What a task may use of the machine.
            frozen_s: How long a task may be stopped by a signal before it is killed.
        """
        self._module = module
        self._limits = limits or Limits()
        self._context = dict(context or {})
        self._graces, self._frozen_s = (stop_grace_s, kill_grace_s), frozen_s
        self._work_dir = data_dir.resolve() / "work"
        self.records = Records(data_dir.resolve() / "records", kept)
        shutil.rmtree(self._work_dir, ignore_errors=True)
        self._work_dir.mkdir(parents=True)

    def __call__(
        self, name: TaskName, epoch: int, request: bytes, on_event: OnEvent, on_exit: OnExit
    ) -> "TaskProcess":
        """Start one task; `on_event` and, once, `on_exit` are called from a thread of it.

        Raises:
            OSError: There is no room for a process, a pipe or a folder.
        """
        folder = self.records.begin(name, epoch)

        def exited(crash: Failure) -> None:
            self.records.end(folder)
            on_exit(crash)

        told = json.dumps(self._context | {RECORD: str(folder)}).encode()
        try:
            return self._start(name, epoch, folder, (request, told), on_event, exited)
        except OSError:
            self.records.end(folder)
            raise

    def _start(
        self,
        name: TaskName,
        epoch: int,
        folder: Path,
        frames: tuple[bytes, ...],
        on_event: OnEvent,
        on_exit: OnExit,
    ) -> "TaskProcess":
        return TaskProcess(
            [sys.executable, "-m", self._module],
            work_dir=self._work_dir / f"{name.project}+{name.task}+{epoch}",  # no name has a +
            log=LogWriter(folder, self.records.kept.log_bytes),
            limits=self._limits,
            frames=frames,
            graces=self._graces,
            frozen_s=self._frozen_s,
            on_event=on_event,
            on_exit=on_exit,
        )


class TaskProcess:
    """A running task. `on_exit` is called exactly once, when none of its processes is left."""

    def __init__(
        self,
        command: list[str],
        *,
        work_dir: Path,
        log: LogWriter,
        limits: Limits,
        frames: tuple[bytes, ...],
        graces: tuple[float, float],
        frozen_s: float,
        on_event: OnEvent,
        on_exit: OnExit,
    ) -> None:
        self._work_dir, self._log = work_dir, log
        self._frozen, self._frozen_s = False, frozen_s
        self._graces, self._on_event, self._on_exit = graces, on_event, on_exit
        self._lock = threading.Lock()
        self._told = threading.Event()  # the request has been sent: STOP must not come before it
        self._exited = threading.Event()
        self._stopping = False
        self._mark = new_mark()
        work_dir.mkdir()
        try:
            self._process, self._events = _spawn(command, work_dir, self._mark)
        except OSError:  # nothing stays behind: the same task may be started again
            log.close()
            work_dir.rmdir()
            raise
        with contextlib.suppress(ProcessLookupError):
            limits.apply(self.pid)  # before it knows which program to run
        threading.Thread(target=self._run, args=(frames,), name=f"task-{self.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id of the subprocess, and id of its group."""
        return self._process.pid

    def stop(self) -> None:
        """Ask the task to end; end it by force when it does not. Returns at once; a repeat changes nothing."""
        with self._lock:
            if self._stopping:
                return
            self._stopping = True
        threading.Thread(target=self._end, name=f"task-{self.pid}-stop", daemon=True).start()

    def kill(self) -> None:
        """End every process of the task now."""
        self._signal(signal.SIGKILL)

    def order(self, frame: bytes) -> bool:
        """Send the task a frame beyond its request; False if it has not been sent that one yet, and so got neither."""
        told = self._told.wait(self._graces[0])
        if told:
            self._tell(frame)
        return told

    def _run(self, frames: tuple[bytes, ...]) -> None:
        with self._log as log:
            readers = [
                threading.Thread(target=self._read_events, name=f"task-{self.pid}-events", daemon=True),
                threading.Thread(
                    target=self._read_log, args=(log,), name=f"task-{self.pid}-log", daemon=True
                ),
            ]
            for reader in readers:
                reader.start()
            for frame in frames:
                self._tell(frame)
            self._told.set()
            status = self._wait()
            for reader in readers:
                reader.join(_PIPE_END_S)
            last_words = log.tail(_DETAIL_LINES)
        shutil.rmtree(self._work_dir, ignore_errors=True)
        # The message is the same for the same end, so that the scheduler can tell a crash that repeats itself.
        self._on_exit(
            Failure(reason=TASK_CRASHED, message=FROZEN if self._frozen else _say(status), detail=last_words)
        )

    def _wait(self) -> int:
        """Wait for the subprocess, end the rest of its group and who left it, and return its status."""
        self._frozen = end_frozen(self.pid, self._frozen_s)
        self._signal(signal.SIGKILL)
        end_marked(self._mark)
        with self._lock:
            self._exited.set()
        return self._process.wait()

    def _read_events(self) -> None:
        with self._events as pipe, contextlib.suppress(BrokenFrameError):
            while (frame := read_frame(pipe)) is not None:
                # The pipe is within the program's reach: what is no event is not worth the service's life.
                with contextlib.suppress(DecodeError):
                    self._on_event(Task.FromString(frame))

    def _read_log(self, log: LogWriter) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as pipe:
            while data := os.read(pipe.fileno(), CHUNK_BYTES):
                # A disk without room for a log must not block the task on a full pipe.
                with contextlib.suppress(OSError, ValueError):
                    log.write(data)

    def _tell(self, frame: bytes) -> None:
        assert self._process.stdin is not None
        # It may be gone already, or be stopped while its request is still on the way.
        with contextlib.suppress(OSError, ValueError):
            write_frame(self._process.stdin, frame)

    def _end(self) -> None:
        if self._told.wait(self._graces[0]):
            self._tell(STOP)
        for grace_s, number in zip(self._graces, (signal.SIGTERM, signal.SIGKILL), strict=True):
            if self._exited.wait(grace_s):
                return
            self._signal(number)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            if not self._exited.is_set():
                with contextlib.suppress(ProcessLookupError, PermissionError):  # only zombies are left in it
                    os.killpg(self.pid, number)


def _spawn(command: list[str], work_dir: Path, mark: str) -> tuple[subprocess.Popen[bytes], BinaryIO]:
    """Start `command <descriptor of the event pipe>`; return it with the end of that pipe to read."""
    read_end, write_end = os.pipe()
    try:
        process = subprocess.Popen(
            [*command, str(write_end)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
            start_new_session=True,
            cwd=work_dir,
            env=_environment(os.environ, work_dir) | {MARK: mark},
        )
    except OSError:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    return process, os.fdopen(read_end, "rb")


def _environment(environ: Mapping[str, str], work_dir: Path) -> dict[str, str]:
    kept = {key: value for key, value in environ.items() if key in ENVIRONMENT or key.startswith("LC_")}
    # Temporary files go away with the working folder; a log that is read while the task runs must not be buffered.
    # -P: the working folder is not a place to import from.
    return kept | {"TMPDIR": str(work_dir), "PYTHONUNBUFFERED": "1", "PYTHONSAFEPATH": "1"}


_HINTS: dict[int, str] = {
    signal.SIGKILL: " (was the machine out of memory?)",
    signal.SIGXCPU: " (it used up the CPU time that this node allows a task)",
    signal.SIGXFSZ: " (it wrote a larger file than this node allows a task)",
}


def _say(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        return f"the task's process was killed by {name}{_HINTS.get(-status, '')}"
    return f"the task's process ended with status {status} and no result"
