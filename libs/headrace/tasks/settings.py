"""What every node that runs tasks can be told: which programs, where, and how much they may use."""

import json
from pathlib import Path

from pydantic import Field, field_validator

from headrace.node.settings import NodeSettings
from headrace.tasks.frozen import FROZEN_S
from headrace.tasks.limits import Limits, can_limit
from headrace.tasks.records import KEPT_TASKS, MAX_LOG_BYTES, Kept


class TaskNodeSettings(NodeSettings):
    """Settings of a service whose work are tasks. `data_dir` has no default here: each service names its own."""

    data_dir: Path = Field(description="Folder of the running tasks' files, and of what is kept of them.")
    allowed_programs: list[str] = Field(
        ["headrace_examples"],
        description="Modules and packages whose programs may run, separated by commas; a package stands for all below it.",
    )
    frozen_s: float = Field(
        FROZEN_S,
        gt=0,
        le=86400,
        description="How long a task's process may be stopped by a signal (SIGSTOP) before it is killed.",
    )
    allow_archives: bool = Field(
        False,
        description="Whether programs uploaded as source archives may run: anyone's code, as this user.",
    )
    object_storage_file: str = Field(
        "",
        description="JSON file with options of the object stores that data are read from, as obstore names them: "
        '{"aws_access_key_id": ..., "aws_endpoint": ...}; "" means none. The programs of tasks can read them too.',
    )

    @field_validator("object_storage_file")
    @classmethod
    def _holds_options(cls, path: str) -> str:
        if path:
            _options(path)
        return path

    @property
    def object_storage(self) -> dict[str, str]:
        """The options, read anew."""
        return _options(self.object_storage_file) if self.object_storage_file else {}

    kept_log_bytes: int = Field(
        MAX_LOG_BYTES, ge=1 << 18, le=1 << 40, description="Bytes of a task's log that are kept, the newest."
    )
    kept_tasks: int = Field(
        KEPT_TASKS, ge=1, le=1_000_000, description="Tasks that have ended whose logs and measures are kept."
    )
    task_memory_bytes: int = Field(
        0,
        ge=0,
        description="Private memory that one process of a task may have; 0 means as much as there is.",
    )
    task_open_files: int = Field(
        0, ge=0, description="Files that one process of a task may have open; 0: any."
    )
    task_processes: int = Field(
        0,
        ge=0,
        description="Processes and threads of this user beyond which a task cannot start one; 0: any. Root is not held to it.",
    )
    task_file_bytes: int = Field(0, ge=0, description="Bytes of one file that a task writes; 0: any.")
    task_cpu_s: int = Field(0, ge=0, description="Seconds of CPU time of one process of a task; 0: any.")

    @field_validator(
        "task_memory_bytes", "task_open_files", "task_processes", "task_file_bytes", "task_cpu_s"
    )
    @classmethod
    def _can_be_kept(cls, most: int) -> int:
        if most and not can_limit():
            raise ValueError("this system cannot limit tasks; leave it at 0, or run the node on Linux")
        return most

    @property
    def kept(self) -> Kept:
        """How much is kept of the tasks."""
        return Kept(self.kept_log_bytes, self.kept_tasks)

    @property
    def task_limits(self) -> Limits:
        """What a task may use of the machine."""
        return Limits(
            memory_bytes=self.task_memory_bytes,
            open_files=self.task_open_files,
            processes=self.task_processes,
            file_bytes=self.task_file_bytes,
            cpu_s=self.task_cpu_s,
        )


def _options(path: str) -> dict[str, str]:
    """Read options from a file; ValueError says why they cannot be, and repeats none of them."""
    try:
        options = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}; give a file that this user may read") from None
    except ValueError:
        raise ValueError("is no JSON; write one object of names and texts") from None
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ValueError("is no object of names and texts; write numbers and truth values as texts too")
    return options
