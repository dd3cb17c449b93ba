"""How long a script waits before its first call: `import headrace; headrace.connect(...)` in a fresh interpreter.

    python -m benchmarks.client [--json]

The goal of 300 ms is the time itself; `import grpc`, which no client can do without, stands beside it.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from benchmarks.harness import Case, main

GRPC = "import grpc"
CONNECT = "import headrace; headrace.connect('127.0.0.1:1')"
GOAL_MS = 300.0


def milliseconds(statement: str) -> float:
    """Run the statement in a fresh interpreter and let it say how long it took, without the interpreter's own start."""
    script = (
        f"import time; start = time.perf_counter(); {statement}; print(1e3 * (time.perf_counter() - start))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    return float(done.stdout)


@contextmanager
def cases() -> Iterator[Sequence[Case]]:
    """Yield the two statements."""
    yield [
        Case("import grpc", "ms", partial(milliseconds, GRPC)),
        Case("import headrace and connect", "ms", partial(milliseconds, CONNECT), goal=GOAL_MS),
    ]


if __name__ == "__main__":
    main("client", {"connect": cases})
