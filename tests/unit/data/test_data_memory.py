"""Memory does not grow with the file: a whole epoch in a process of its own, whose memory is measured from outside."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv as arrow_csv

MIB = 1 << 20
ROWS, WIDTH = 400_000, 48  # 73 MiB as float32, 146 MiB as they are stored
WINDOW = 12 * MIB

EPOCH = """
import resource, sys
import numpy as np, pyarrow, pyarrow.csv, pyarrow.parquet, pyarrow.json
from headrace.data import csv, npz, parquet

make, path, window, width = {"csv": csv, "npz": npz, "parquet": parquet}[sys.argv[1]], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
inputs = {"input": "x"} if sys.argv[1] == "npz" else {"input": [f"x{column}" for column in range(width)]}
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = make(path, inputs=inputs, target="y").shuffled(window).open()
assignment = rows.assignment(1024, 0)
seen = 0
for step in range(assignment.steps_per_epoch):
    seen += int(rows.take(assignment.share(step, 0, 1)).targets.sum())
assert seen == len(rows) * (len(rows) - 1) // 2
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) << 10)
"""


@pytest.mark.parametrize("format_", ["parquet", "csv", "npz"])
def test_an_epoch_takes_the_shuffle_window_and_little_more(format_: str, tmp_path: Path) -> None:
    """The data are 12 times the window or more. Beside it there are a block as it is read, and what Arrow holds for the next one."""
    path = tmp_path / f"x.{format_}"
    stored = write(format_, path)
    run = subprocess.run(
        [sys.executable, "-c", EPOCH, format_, str(path), str(WINDOW), str(WIDTH)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert stored > 70 * MIB
    assert int(run.stdout) < WINDOW + 36 * MIB


def write(format_: str, path: Path) -> int:
    numbers = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
    if format_ == "npz":
        np.savez(path, x=numbers, y=np.arange(ROWS))
    else:
        numbers = np.round(numbers, 2) if format_ == "csv" else numbers
        table = pa.table(
            {f"x{column}": numbers[:, column] for column in range(WIDTH)} | {"y": np.arange(ROWS)}
        )
        if format_ == "csv":
            arrow_csv.write_csv(table, path)
        else:
            pq.write_table(table, path, row_group_size=5000)
    return path.stat().st_size
