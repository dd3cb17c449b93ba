"""The same table in every format, written by others' libraries; and what it must read back as."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from headrace.data import Dataset, csv, jsonl, npz, parquet
from headrace.program import Examples

ROWS = 250
INPUTS = {"features": ("width", "height"), "count": "count"}
TARGET = "label"
USERS = 17


def columns(rows: int = ROWS) -> dict[str, np.ndarray]:
    """Return columns whose `label` is the row's number."""
    generator = np.random.default_rng(4)
    return {
        "width": generator.normal(size=rows),
        "height": generator.normal(size=rows).astype(np.float32),
        "count": generator.integers(0, 9, rows),
        "label": np.arange(rows),
        "user": np.array([f"user {number % USERS}" for number in range(rows)], object),
    }


def expected(rows: int = ROWS) -> Examples:
    table = columns(rows)
    features = np.stack([table["width"].astype(np.float32), table["height"]], axis=1)
    return Examples({"features": features, "count": table["count"]}, table["label"])


def write_parquet(folder: Path, rows: int = ROWS, group: int = 40) -> Dataset:
    """Two files; the second one's last row group is smaller."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns(rows))
    pq.write_table(table.slice(0, rows // 2), folder / "part-0.parquet", row_group_size=group)
    pq.write_table(table.slice(rows // 2), folder / "part-1.parquet", row_group_size=group)
    return parquet(folder, inputs=INPUTS, target=TARGET)


def write_csv(folder: Path, rows: int = ROWS) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    arrow_csv.write_csv(pa.table(columns(rows)), folder / "table.csv")
    return csv(folder / "table.csv", inputs=INPUTS, target=TARGET)


def write_csv_gz(folder: Path, rows: int = ROWS) -> Dataset:
    write_csv(folder, rows)
    packed = folder / "packed.csv.gz"
    packed.write_bytes(gzip.compress((folder / "table.csv").read_bytes()))
    return csv(packed, inputs=INPUTS, target=TARGET)


def write_jsonl(folder: Path, rows: int = ROWS) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in pa.table(columns(rows)).to_pylist()]
    (folder / "table.jsonl").write_text("\n".join(lines))  # the last line ends with the file
    return jsonl(folder / "table.jsonl", inputs=INPUTS, target=TARGET)


def write_jsonl_gz(folder: Path, rows: int = ROWS) -> Dataset:
    write_jsonl(folder, rows)
    packed = folder / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress((folder / "table.jsonl").read_bytes()))
    return jsonl(packed, inputs=INPUTS, target=TARGET)


def write_npz(folder: Path, rows: int = ROWS) -> Dataset:
    """Two archives."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {name: array for name, array in columns(rows).items() if name != "user"}
    table["user"] = np.arange(rows) % USERS
    for part, chosen in enumerate((slice(0, rows // 3), slice(rows // 3, rows))):
        np.savez(folder / f"part-{part}.npz", **{name: array[chosen] for name, array in table.items()})  # type: ignore[arg-type]  # numpy's stub
    return npz(str(folder / "part-*.npz"), inputs=INPUTS, target=TARGET)


def write_npz_compressed(folder: Path, rows: int = ROWS) -> Dataset:
    folder.mkdir(parents=True, exist_ok=True)
    table = {name: array for name, array in columns(rows).items() if name != "user"}
    np.savez_compressed(folder / "packed.npz", **table, user=np.arange(rows) % USERS)  # type: ignore[arg-type]  # numpy's stub
    assert zipfile.ZipFile(folder / "packed.npz").infolist()[0].compress_type == zipfile.ZIP_DEFLATED
    return npz(folder / "packed.npz", inputs=INPUTS, target=TARGET)


Write = Callable[[Path], Dataset]
WRITERS: list[Write] = [
    write_parquet,
    write_csv,
    write_csv_gz,
    write_jsonl,
    write_jsonl_gz,
    write_npz,
    write_npz_compressed,
]


def assert_equal(found: Examples, wanted: Examples) -> None:
    assert found.inputs.keys() == wanted.inputs.keys()
    for name, array in wanted.inputs.items():
        assert found.inputs[name].dtype == array.dtype
        np.testing.assert_array_equal(found.inputs[name], array)
    np.testing.assert_array_equal(found.targets, wanted.targets)
