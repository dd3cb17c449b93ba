"""A task whose request (a `google.protobuf.Struct`) says what it should do; run as `python -m task_program`."""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from google.protobuf.struct_pb2 import Struct

from headrace.errors import StaleEpoch
from headrace.tasks.child import Context, Reporter, run_task
from headrace.types.v1.task_pb2 import Checkpoint, TaskResult

NOBODY = 65534


def _succeed(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    for step in range(1000):
        reporter.progress(step + 1, 1000, "counting", {"loss": 1 / (step + 1)})
    reporter.checkpoint(Checkpoint(step=1000, snapshots=["s"]))
    return TaskResult(
        version=str(context["label"]), metrics={"answer": request.fields["answer"].number_value}
    )


def _environment(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    return TaskResult(version=json.dumps({"names": sorted(os.environ), "folder": str(Path.cwd())}))


def _raise(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    raise ValueError("the data\nis not there")


def _raise_known(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    raise StaleEpoch("epoch 1 has been replaced")


def _exit(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    sys.exit(3)


def _die(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    sys.stderr.write("about to run out of memory\n")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _hear(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    """Wait for two words; the first may come before anybody listens."""
    words: list[str] = []
    both = threading.Event()

    def hear(word: bytes) -> None:
        words.append(word.decode())
        if len(words) == 2:
            both.set()

    reporter.progress(1, 2, "deaf", {})
    reporter.on_told(hear)
    both.wait()
    return TaskResult(version=" ".join(words))


def _listen(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    """Report the process id and that of a child of its own, then wait for a stop."""
    child = subprocess.Popen([sys.executable, "-c", "import threading; threading.Event().wait()"])
    reporter.progress(1, 2, "waiting", {"pid": os.getpid(), "child_pid": child.pid})
    while not reporter.stop_requested:
        threading.Event().wait(0.02)
    reporter.raise_if_stopped()
    raise AssertionError


def _leave_a_daemon(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    """Start a process in a session of its own, by a parent that ends at once: nothing but its environment tells whose it is."""
    waits = "import threading; threading.Event().wait()"
    starts = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {waits!r}], start_new_session=True, stdout=2).pid)"
    pid = int(subprocess.run([sys.executable, "-c", starts], stdout=subprocess.PIPE, check=True).stdout)
    reporter.progress(1, 2, "waiting", {"pid": os.getpid(), "child_pid": pid})
    while request.fields["wait"].number_value and not reporter.stop_requested:
        threading.Event().wait(0.02)
    return TaskResult()


def _ignore(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    reporter.progress(1, 2, "ignoring", {"pid": os.getpid()})
    threading.Event().wait()
    raise AssertionError


def _print(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    for number in range(int(request.fields["lines"].number_value)):
        sys.stdout.write(f"line {number:09d} of many\n")
    sys.stdout.write(f"stdin holds {len(sys.stdin.read())} characters\n")
    return TaskResult()


def _print_and_wait(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    """Print a line, and another one when it is to stop."""
    sys.stderr.write("began\n")
    while not reporter.stop_requested:
        threading.Event().wait(0.02)
    sys.stdout.write("ended\n")
    return TaskResult()


def _hang_in_c(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    """Sleep in a foreign function that keeps the interpreter's lock: no other thread of Python runs."""
    reporter.progress(1, 2, "hanging", {"pid": os.getpid()})
    ctypes.PyDLL(None).sleep(30)
    raise AssertionError


def _allocate(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    return TaskResult(metrics={"bytes": len(bytearray(int(request.fields["bytes"].number_value)))})


def _open_files(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1000)]
    return TaskResult(metrics={"files": len(files)})


def _write_a_file(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    Path("large").write_bytes(bytes(2 << 20))
    return TaskResult()


def _burn(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    while True:
        sum(range(1000))


def _dump_core(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    """Ask for a core file as large as it gets, then crash."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    sys.stderr.write(f"core {soft} {hard}\n")
    os.abort()


def _bomb(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    """Fork until the system says no, in every process that comes of it. Root is held to no number of processes: be nobody."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    made = 0
    while True:
        try:
            if os.fork() == 0:
                _fork_for_ever()
            made += 1
        except BlockingIOError:
            reporter.progress(1, 2, "exploded", {"made": made, "pid": os.getpid()})
            threading.Event().wait()


def _fork_for_ever() -> None:
    while True:
        with contextlib.suppress(OSError):
            os.fork()


def _leave_a_thread(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    threading.Thread(target=threading.Event().wait).start()
    return TaskResult()


DEEDS: dict[str, Callable[[Struct, Context, Reporter], TaskResult]] = {
    "succeed": _succeed,
    "environment": _environment,
    "raise": _raise,
    "raise_known": _raise_known,
    "exit": _exit,
    "die": _die,
    "hear": _hear,
    "listen": _listen,
    "leave_a_daemon": _leave_a_daemon,
    "ignore": _ignore,
    "print": _print,
    "print_and_wait": _print_and_wait,
    "hang_in_c": _hang_in_c,
    "allocate": _allocate,
    "open_files": _open_files,
    "write_a_file": _write_a_file,
    "burn": _burn,
    "dump_core": _dump_core,
    "bomb": _bomb,
    "leave_a_thread": _leave_a_thread,
}


def work(request: Struct, context: Context, reporter: Reporter) -> TaskResult:
    return DEEDS[str(request["do"])](request, context, reporter)


if __name__ == "__main__":
    run_task(Struct, work)
