"""One supervised service process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CONFIG_MISTAKE = 2  # the exit code of `headrace.config.load`: starting again cannot help
_TAIL_LINES = 5
_TAIL_WIDTH = 400


@dataclass(frozen=True)
class ProcessSpec:
    """What to run: `python -m module` with `environment` added to ours, reachable at `address` (host:port)."""

    name: str
    module: str
    address: str
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Exit:
    """How a process ended; `code` is negative for a signal, as in `subprocess`."""

    spec: ProcessSpec
    code: int
    ran_s: float

    @property
    def hopeless(self) -> bool:
        """Whether starting it again cannot help."""
        return self.code == _CONFIG_MISTAKE


class Child:
    """A running process in a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone.

    Its standard input is a pipe we hold: the service shuts down when that closes, even if we were killed by SIGKILL.
    """

    def __init__(self, spec: ProcessSpec, log: Path) -> None:
        self.spec = spec
        self.log = log
        self._started = time.monotonic()
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", spec.module],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=_environment(spec.environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process id, and id of the process's session."""
        return self._process.pid

    def wait(self) -> Exit:
        """Block until the process has ended."""
        code = self._process.wait()
        return Exit(self.spec, code, time.monotonic() - self._started)

    def alive(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._process.poll() is None

    def terminate(self) -> None:
        """Ask the process to drain and leave."""
        if self.alive():
            self._process.terminate()

    def kill(self) -> None:
        """End the process and whatever it started in its session."""
        with contextlib.suppress(ProcessLookupError):  # it is gone already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def last_lines(self) -> str:
        """Return the end of its log, for an error message."""
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(line[-_TAIL_WIDTH:] for line in lines)  # a logged traceback ends with what matters


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    """Return our environment without our own HEADRACE_ settings, which are for one service each, plus `added`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HEADRACE_")}
    return {**kept, **added}
