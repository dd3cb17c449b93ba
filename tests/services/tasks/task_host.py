"""A service that can be killed: starts a task of `task_program`, prints its state as it changes, waits forever."""

import sys
import threading
import time
from pathlib import Path

from google.protobuf.struct_pb2 import Struct

from headrace.tasks.process import Launcher
from headrace.tasks.service import TaskService
from headrace.tasks.table import TaskTable


def main() -> None:
    tasks = TaskService(TaskTable(1), Launcher("task_program", Path(sys.argv[1])), time.time)
    request = Struct()
    request.update({"do": sys.argv[2], "wait": 1})
    tasks.start("projects/default/tasks/listen", 1, request)
    for task in tasks.watch("projects/default/tasks/listen", 0, lambda: True):
        if task.progress.step:
            pids = (int(task.progress.metrics[which]) for which in ("pid", "child_pid"))
            sys.stdout.write(" ".join(map(str, pids)) + "\n")
            sys.stdout.flush()
            threading.Event().wait()


if __name__ == "__main__":
    main()
