"""Processes of the parameter service."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

START_S = 60.0
AS_IT_IS = "from headrace_parameters.__main__ import main; main()"
PLAIN_MALLOC = (
    f"import headrace.parameters.malloc as malloc; malloc.keep_freed_memory = lambda: False; {AS_IT_IS}"
)


@contextmanager
def shard_process(program: str = AS_IT_IS, **more: str) -> Iterator[str]:
    """Run a parameter service on a free port, with `more` settings; yield its address."""
    with shard_processes(1, program, **more) as (address,):
        yield address


@contextmanager
def shard_processes(count: int, program: str = AS_IT_IS, **more: str) -> Iterator[Sequence[str]]:
    """Run so many, which start at the same time."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        files = [folder / str(number) for number in range(count)]
        processes = [stack.enter_context(_process(program, file, more)) for file in files]
        yield [_wait_for_text(*each) for each in zip(files, processes, strict=True)]


@contextmanager
def _process(program: str, address_file: Path, more: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    settings = {
        "ADDRESS": "127.0.0.1:0",
        "ADDRESS_FILE": str(address_file),
        "METRICS_ADDRESS": "",
        "LOG_LEVEL": "warning",
        **more,
    }
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {f"HEADRACE_PARAMETERS_{name}": value for name, value in settings.items()},
    )
    try:
        yield process
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
