"""`headrace` in a process of its own, its output in pipes."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMEOUT_S = 60
_MAIN = [sys.executable, "-m", "headrace.cli"]


@dataclass(frozen=True)
class Headrace:
    """Runs commands against the headrace at `address`, in `project`, in the folder `folder`."""

    address: str
    project: str
    folder: Path

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        """Start a command."""
        environ = {**os.environ, "HEADRACE_ADDRESS": self.address, "HEADRACE_PROJECT": self.project}
        return subprocess.Popen(
            [*_MAIN, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environ,
            cwd=self.folder,
        )

    def __call__(self, *arguments: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run a command and check its exit code."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == code, f"{arguments}: {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def json(self, *arguments: str) -> Any:
        """Run a command with --json and return what it printed."""
        return json.loads(self(*arguments, "--json").stdout)

    def error(self, *arguments: str, code: int = 1) -> str:
        """Run a command that must fail, and return the one line it says about it."""
        done = self(*arguments, code=code)
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        return line
