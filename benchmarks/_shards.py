"""Processes of the parameter service."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_S = 60.0
AS_IT_IS = "from headrace_parameters.__main__ import main; main()"


@contextmanager
def shard_process(program: str = AS_IT_IS, **more: str) -> Iterator[str]:
    """Run a parameter service on a free port, with `more` settings; yield its address."""
    with tempfile.TemporaryDirectory() as folder:
        address = Path(folder, "address")
        settings = {
            "ADDRESS": "127.0.0.1:0",
            "ADDRESS_FILE": str(address),
            "METRICS_ADDRESS": "",
            "LOG_LEVEL": "warning",
            **more,
        }
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=os.environ | {f"HEADRACE_PARAMETERS_{name}": value for name, value in settings.items()},
        )
        try:
            yield _wait_for_text(address, process)
        finally:
            process.terminate()
            process.wait()


def _wait_for_text(path: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + START_S
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the service does not start (status {process.returncode})")
        time.sleep(0.05)
    return path.read_text().strip()
