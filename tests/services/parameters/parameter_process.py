"""Real processes: services that end with their test, and workers that push."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

REPOSITORY_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
}


@contextmanager
def service_process(service: str, **settings: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `python -m headrace_<service>` on a free port; yield its address and the process."""
    prefix = f"HEADRACE_{service.upper()}_"
    environment = {"ADDRESS": "127.0.0.1:0", "METRICS_ADDRESS": "", "LOG_FORMAT": "json", **settings}
    process = subprocess.Popen(
        [sys.executable, "-m", f"headrace_{service}"],
        env=REPOSITORY_ENVIRONMENT | {prefix + name: value for name, value in environment.items()},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield _address(process), process
    finally:
        process.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


def _address(process: subprocess.Popen[str]) -> str:
    assert process.stderr
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith("{") and (event := json.loads(line))["event"] == "listening":
            return str(event["address"])
    raise AssertionError(f"the service ended with status {process.wait()}:\n{''.join(lines)}")


def start_worker(address: str, store: str, worker: int, pushes: int) -> subprocess.Popen[bytes]:
    """Run this file: a worker that pushes ones, `pushes` times, after the others or before."""
    return subprocess.Popen(
        [sys.executable, __file__, address, store, str(worker), str(pushes)], env=REPOSITORY_ENVIRONMENT
    )


def _push(address: str, store: str, worker: int, pushes: int) -> None:
    import numpy as np

    from headrace.parameters.client import ShardedStore
    from headrace.parameters.layout import FlatLayout, TensorSpec

    layout = FlatLayout((TensorSpec("w", (1000,)),))
    with ShardedStore([address], store, epoch=1, worker=worker) as client:
        client.initialize(layout, np.zeros(1000, np.float32))
        for step in range(pushes):
            client.push(step, np.ones(1000, np.float32), samples=1)


if __name__ == "__main__":
    _push(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
