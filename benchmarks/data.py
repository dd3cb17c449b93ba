"""Streamed data: `python -m benchmarks.data [suite] [--json] [--repeats N]`.

epoch: a shuffled epoch in batches of 256, against reading the file once in order with the library alone (pyarrow, numpy), in rows/s.
seek: from opening the data to the first batch, deep in the second epoch against step 0.
step: a step that computes for some milliseconds, its data streamed and read ahead, against data in memory.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import csv as arrow_csv

from benchmarks.harness import Case, main
from headrace.data import Dataset, csv, npz, parquet
from headrace.data.dataset import open_data
from headrace.program import Examples
from headrace_training.core.feed import feed

ROWS, WIDTH, GROUP = 200_000, 32, 5000
BATCH = 256
WINDOW = 8 << 20  # a third of the table: the shuffle does not have all of it in memory
COLUMNS = [f"x{number}" for number in range(WIDTH)]
STEPS = 100
DEEP_STEP = 1300  # of 782 in an epoch


class Files:
    """The same table in three formats."""

    def __init__(self, folder: Path) -> None:
        numbers = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype(np.float32)
        self.arrays = Examples({"input": numbers}, np.arange(ROWS))
        table = pa.table(
            {name: numbers[:, place] for place, name in enumerate(COLUMNS)} | {"y": np.arange(ROWS)}
        )
        self.parquet, self.csv, self.npz = (folder / f"x.{suffix}" for suffix in ("parquet", "csv", "npz"))
        pq.write_table(table, self.parquet, row_group_size=GROUP)
        arrow_csv.write_csv(table, self.csv)
        np.savez(self.npz, x=numbers, y=np.arange(ROWS))
        self.described: dict[str, Dataset] = {
            "parquet": parquet(self.parquet, inputs={"input": COLUMNS}, target="y").shuffled(WINDOW),
            "csv": csv(self.csv, inputs={"input": COLUMNS}, target="y").shuffled(WINDOW),
            "npz": npz(self.npz, inputs={"input": "x"}, target="y"),
        }

    def read_in_order(self, name: str) -> None:
        """Bring the whole table into memory, as the library does it."""
        if name == "parquet":
            pq.ParquetFile(self.parquet).read(use_threads=False)
        elif name == "csv":
            options = arrow_csv.ReadOptions(use_threads=False)
            arrow_csv.read_csv(io.BytesIO(self.csv.read_bytes()), read_options=options)
        else:
            np.fromfile(self.npz, np.uint8)


@contextmanager
def epoch() -> Iterator[list[Case]]:
    """Compare shuffled epochs with reading in order."""
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        cases = []
        for name, described in files.described.items():
            cases.append(Case(f"{name}, in order", "rows/s", _rate(partial(files.read_in_order, name))))
            cases.append(
                Case(
                    f"{name}, shuffled", "rows/s", _epoch(described), f"{name}, in order", more_is_better=True
                )
            )
        yield cases


def _rate(read: Callable[[], None]) -> Callable[[], float]:
    def measured() -> float:
        begun = time.perf_counter()
        read()
        return ROWS / (time.perf_counter() - begun)

    return measured


def _epoch(described: Dataset) -> Callable[[], float]:
    rows = described.open()
    assignment = rows.assignment(BATCH, 0)

    def read() -> None:
        for step in range(-(-ROWS // BATCH)):
            rows.take(assignment.share(step, 0, 1))

    return _rate(read)


@contextmanager
def seek() -> Iterator[list[Case]]:
    """Compare the first batch of a run that goes on with that of one that begins."""
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        cases = []
        for name, described in files.described.items():
            cases.append(Case(f"{name}, step 0", "ms", _first_batch(described, 0)))
            cases.append(
                Case(
                    f"{name}, step {DEEP_STEP}",
                    "ms",
                    _first_batch(described, DEEP_STEP),
                    f"{name}, step 0",
                    1.5,
                )
            )
        yield cases


def _first_batch(described: Dataset, step: int) -> Callable[[], float]:
    def measured() -> float:
        begun = time.perf_counter()
        rows = described.open()
        rows.take(rows.assignment(BATCH, 0).share(step, 0, 1))
        return (time.perf_counter() - begun) * 1e3

    return measured


@contextmanager
def step() -> Iterator[list[Case]]:
    """Compare steps on streamed data with steps on arrays."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder))
        cases = [Case("arrays", "ms/step", _steps(files.arrays))]
        cases += [
            Case(name, "ms/step", _steps(described), "arrays", 1.15)
            for name, described in files.described.items()
        ]
        yield cases


def _steps(data: Examples | Dataset) -> Callable[[], float]:
    weights = torch.randn(WIDTH, 512), torch.randn(512, 512)

    def measured() -> float:
        """Open anew, so that every round reads; the first step, which waits for the first batch, is not counted."""
        take = feed(open_data(data), BATCH, 0, STEPS + 1)
        take(0, 0, 1)
        begun = time.perf_counter()
        for number in range(1, STEPS + 1):
            batch = torch.from_numpy(np.ascontiguousarray(take(number, 0, 1).inputs["input"]))
            for _ in range(8):
                (batch @ weights[0] @ weights[1]).sum().item()
        return (time.perf_counter() - begun) / STEPS * 1e3

    return measured


if __name__ == "__main__":
    main("data", {"epoch": epoch, "seek": seek, "step": step})
