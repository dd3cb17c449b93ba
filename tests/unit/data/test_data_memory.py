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
ROWS, WIDTH = 300_000, 48  # 55 MiB as float32
WINDOW = 12 * MIB

EPOCH = """
import re, sys
from pathlib import Path
import numpy as np, pyarrow, pyarrow.csv, pyarrow.parquet, pyarrow.json
from headrace.data import csv, npz, parquet

make, path, window, width = {"csv": csv, "npz": npz, "parquet": parquet}[sys.argv[1]], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
inputs = {"input": "x"} if sys.argv[1] == "npz" else {"input": [f"x{column}" for column in range(width)]}

def highest():
    # The most this process ever had. Not ru_maxrss: that begins with what the test's own process had when it started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10

base = highest()
rows = make(path, inputs=inputs, target="y").shuffled(window).open()
assignment = rows.assignment(1024, 0)
seen = 0
for step in range(assignment.steps_per_epoch):
    seen += int(rows.take(assignment.share(step, 0, 1)).targets.sum())
assert seen == len(rows) * (len(rows) - 1) // 2
print(highest() - base)
"""


@pytest.mark.parametrize("format_", ["parquet", "csv", "npz"])
def test_three_times_the_data_take_no_more_memory(format_: str, tmp_path: Path) -> None:
    """Beside the window there are blocks while they are read, and what Arrow keeps for the next ones: the same for any file."""
    (small, small_grown), (large, large_grown) = (
        epoch_of(format_, rows, tmp_path / f"{rows}.{format_}") for rows in (ROWS // 3, ROWS)
    )
    assert large - small > 35 * MIB
    assert large_grown - small_grown < 12 * MIB
    assert large_grown < WINDOW + 60 * MIB


def epoch_of(format_: str, rows: int, path: Path) -> tuple[int, int]:
    """Return the size of the file, and what an epoch of it took."""
    write(format_, rows, path)
    run = subprocess.run(
        [sys.executable, "-c", EPOCH, format_, str(path), str(WINDOW), str(WIDTH)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return path.stat().st_size, int(run.stdout)


def write(format_: str, rows: int, path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(rows, WIDTH)).astype(np.float32)
    if format_ == "npz":
        np.savez(path, x=numbers, y=np.arange(rows))
        return
    numbers = np.round(numbers, 2) if format_ == "csv" else numbers
    table = pa.table({f"x{column}": numbers[:, column] for column in range(WIDTH)} | {"y": np.arange(rows)})
    if format_ == "csv":
        arrow_csv.write_csv(table, path)
    else:
        pq.write_table(table, path, row_group_size=5000)
