"""Data with mistakes: each ends with what is wrong, in which file and row, and what to do."""

import gzip
import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from headrace.data import Dataset, csv, images, jsonl, npz, parquet, text
from headrace.data.columns import Columns
from headrace.data.sources import lines
from headrace.data.sources.csv import CsvSource
from headrace.data.storage.local import LocalFile
from headrace.errors import DataChanged, DataUnreadable, FailedPrecondition, Unavailable
from headrace.program import Examples
from tests.unit.data.written import (
    WRITERS,
    Write,
    write_csv,
    write_csv_gz,
    write_jsonl_gz,
    write_npz_compressed,
    write_parquet,
)

UNPACKED = (write_csv_gz, write_jsonl_gz, write_npz_compressed)  # once, at the start: not read again
READ_IN_PLACE = [write for write in WRITERS if write not in UNPACKED]


def read_all(described: Dataset) -> None:
    for _ in described.open().batches(100):
        pass


def parquet_of(folder: Path, **columns: object) -> Dataset:
    pq.write_table(pa.table(columns), folder / "x.parquet")
    return parquet(folder / "x.parquet", inputs={"input": "x"}, target="y")


def csv_of(folder: Path, content: str) -> Dataset:
    (folder / "x.csv").write_text(content)
    return csv(folder / "x.csv", inputs={"input": "x"}, target="y")


def jsonl_of(folder: Path, content: str) -> Dataset:
    (folder / "x.jsonl").write_text(content)
    return jsonl(folder / "x.jsonl", inputs={"input": "x"}, target="y")


def npz_of(folder: Path, **arrays: np.ndarray) -> Dataset:
    np.savez(folder / "x.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub
    return npz(folder / "x.npz", inputs={"input": "x"}, target="y")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (255, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def image_of(folder: Path, *contents: bytes) -> Dataset:
    (folder / "cats").mkdir()
    for number, content in enumerate(contents):
        (folder / "cats" / f"{number}.png").write_bytes(content)
    return images(folder)


TRUNCATED_IMAGE = png()[: len(png()) // 2]
CASES: list[tuple[Callable[[Path], Dataset], str]] = [
    (lambda folder: parquet_of(folder, x=[1.0], z=[1]), r"x\.parquet has no column 'y'; it has x, z"),
    (lambda folder: parquet_of(folder, xs=[1.0], y=[1]), r"no column 'x'; did you mean 'xs'"),
    (lambda folder: parquet_of(folder, x=[1.0, None], y=[1, 2]), r"'x' has no value in row 1; fill it in"),
    (lambda folder: parquet_of(folder, x=[[1], [1, 2]], y=[1, 2]), r"list of 2 in row 1 and of 1 in row 0"),
    (lambda folder: parquet_of(folder, x=[[1, 2], [3, None]], y=[1, 2]), r"no value in a list of row 1"),
    (lambda folder: parquet_of(folder, x=[{"a": 1}], y=[1]), r"'x' is of type struct.*convert it"),
    (lambda folder: parquet_of(folder, x=["red"], y=[1]), r"'input' is text or bytes.*with map\(\)"),
    (lambda folder: parquet_of(folder, x=pa.array([], pa.int8()), y=pa.array([], pa.int8())), r"no rows"),
    (lambda folder: csv_of(folder, "x,y\n1,2\n3\n5,6\n"), r"x\.csv: row 1 .*Expected 2 columns, got 1"),
    (lambda folder: csv_of(folder, "x,y\n1,2\n3,\n"), r"column 'y' has no value in row 1"),
    (lambda folder: csv_of(folder, "x,y\n"), r"x\.csv and the other files have no rows"),
    (lambda folder: csv_of(folder, "x,z\n1,2\n"), r"x\.csv has no column 'y'"),
    (lambda folder: csv_of(folder, 'x,y\n1,2\n"3,4\n5,6\n'), r"rows 0 to 1|row 1"),
    (
        lambda folder: jsonl_of(folder, '{"x": 1, "y": 2}\n{"x": 1, "y": }\n'),
        r"x\.jsonl: row 1 .*Invalid value",
    ),
    (lambda folder: jsonl_of(folder, '{"x": 1, "y": 2}\n{"x": 1}\n'), r"'y' has no value in row 1"),
    (lambda folder: jsonl_of(folder, '{"x": [1], "y": 2}\n{"x": [], "y": 1}\n'), r"list of 0 in row 1"),
    (lambda folder: npz_of(folder, x=np.zeros(3), y=np.zeros(2)), r"arrays of \{'x': 3, 'y': 2\} rows"),
    (lambda folder: npz_of(folder, x=np.zeros(3)), r"x\.npz has no column 'y'"),
    (lambda folder: npz_of(folder, x=np.zeros((3, 2), order="F"), y=np.zeros(3)), r"in C order"),
    (lambda folder: npz_of(folder, x=np.array([{}], object), y=np.zeros(1)), r"array of objects"),
    (lambda folder: image_of(folder, png(), TRUNCATED_IMAGE), r"image 1, .*cats/1\.png, cannot be decoded"),
    (lambda folder: image_of(folder, png(), b"no image"), r"image 1, .*cats/1\.png, cannot be decoded"),
    (images, r"no files ending in \.png, .* at .*, or all are empty"),
    (
        lambda folder: csv(folder / "nowhere.csv", inputs={"a": "x"}, target="y"),
        r"nowhere\.csv cannot be read: No such",
    ),
    (lambda folder: csv(folder / "*.csv", inputs={"a": "x"}, target="y"), r"no files .*\*\.csv"),
    (lambda folder: csv(folder / "x.tsv.gz", inputs={"a": "x"}, target="y"), r"x\.tsv\.gz cannot be read"),
]


@pytest.mark.parametrize(("make", "message"), CASES)
def test_a_mistake_in_the_data_is_named_with_its_file_and_row(
    make: Callable[[Path], Dataset], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataUnreadable, match=message):
        read_all(make(tmp_path))


def test_a_row_is_counted_through_all_blocks_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv_of(tmp_path, "x,y\n" + "1,2\n" * 500 + "1,none\n" + "1,2\n" * 500)
    monkeypatch.setattr(lines, "_PIECE", 64)
    columns = Columns.of({"input": "x"}, "y")
    file = LocalFile.found(tmp_path / "x.csv")
    source = CsvSource([file], columns, delimiter=",", names=None, types={}, block_bytes=100)
    assert len(source.block_rows) > 30
    with pytest.raises(DataUnreadable, match=r"row 500 cannot be read as CSV: .*'none'.*`types`"):
        list(map(source.read, range(len(source.block_rows))))


@pytest.mark.parametrize("name", ["x.parquet", "x.npz", "x.csv.gz"])
def test_a_file_of_another_format_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"this is none of that" * 10)
    make = {"x.parquet": parquet, "x.npz": npz, "x.csv.gz": csv}[name]
    with pytest.raises(DataUnreadable, match=name):
        read_all(make(tmp_path / name, inputs={"input": "x"}, target="y"))


def test_a_gz_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(b"x,y\n" + b"".join(b"%d,2\n" % number for number in range(10_000)))
    (tmp_path / "x.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataUnreadable, match=r"x\.csv\.gz is damaged"):
        read_all(csv(tmp_path / "x.csv.gz", inputs={"input": "x"}, target="y"))


@pytest.mark.parametrize("write", READ_IN_PLACE)
def test_a_file_that_changes_under_the_run_is_refused(write: Write, tmp_path: Path) -> None:
    rows = write(tmp_path).open()
    for path in tmp_path.rglob("*.*"):
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    with pytest.raises(DataChanged, match="changed since the run began"):
        rows.take(np.arange(250))


def test_a_file_that_is_removed_under_the_run_is_named(tmp_path: Path) -> None:
    rows = write_csv(tmp_path).open()
    (tmp_path / "table.csv").unlink()
    with pytest.raises(DataChanged, match=r"table\.csv was there when the run began"):
        rows.take(np.array([0]))


def test_files_with_columns_of_different_types_are_refused(tmp_path: Path) -> None:
    for name, values in (("a", [1.5]), ("b", [1])):
        pq.write_table(pa.table({"x": values, "y": [0]}), tmp_path / f"{name}.parquet")
        np.savez(tmp_path / f"{name}.npz", x=np.array(values), y=np.zeros(1))
    for make, suffix in ((parquet, "parquet"), (npz, "npz")):
        described = make(str(tmp_path / f"*.{suffix}"), inputs={"input": "x"}, target="y")
        with pytest.raises(
            DataUnreadable, match=rf"'x' is .* in .*a\.{suffix} and .* in .*b\.{suffix}; write all"
        ):
            described.open()


def test_lists_of_another_length_in_another_row_group_are_refused(tmp_path: Path) -> None:
    table = pa.table({"x": [[1], [2], [3, 4], [5, 6]], "y": [0, 1, 2, 3]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    rows = parquet(tmp_path, inputs={"input": "x"}, target="y").open()
    with pytest.raises(
        DataUnreadable, match=r"'input' is int64 of shape \(1,\) in one part .*\(2,\) per row in another"
    ):
        rows.take(np.arange(4))


def test_text_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("short")
    with pytest.raises(DataUnreadable, match="shorter than 9 bytes; take a smaller context"):
        text(tmp_path / "x.txt", context=8).open()


def test_images_of_different_sizes_need_a_size(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "big.png")
    described = image_of(tmp_path, png(), (tmp_path / "big.png").read_bytes())
    (tmp_path / "big.png").unlink()
    with pytest.raises(DataUnreadable, match="has 9 x 9 pixels and the first one 3 x 4; give a size"):
        read_all(described)


def test_an_image_of_no_known_class_is_refused(tmp_path: Path) -> None:
    image_of(tmp_path, png())
    with pytest.raises(DataUnreadable, match=r"folder 'cats', which is none of the classes \['dogs'\]"):
        images(tmp_path, classes=["dogs"]).open()


def test_a_column_that_is_not_there_cannot_partition(tmp_path: Path) -> None:
    with pytest.raises(DataUnreadable, match="no column 'usr'; did you mean 'user'"):
        write_parquet(tmp_path).partitioned(by="usr").open().assignment(10, 0)


@pytest.mark.parametrize(("column", "values"), [("price", [1.5, 2.5]), ("words", [[1, 2], [3, 4]])])
def test_a_column_of_neither_integers_nor_text_cannot_partition(
    column: str, values: list[object], tmp_path: Path
) -> None:
    pq.write_table(pa.table({"x": [0, 1], column: values}), tmp_path / "x.parquet")
    described = parquet(tmp_path, inputs={"input": "x"}, target="x").partitioned(by=column)
    with pytest.raises(DataUnreadable, match=f"column '{column}' is .*; partition by a column of integers"):
        described.open().assignment(10, 0)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda batch: None, "returned a NoneType"),
        (lambda batch: Examples(batch.inputs, batch.targets[:1]), "made 1 of 'targets' from 100 rows"),
    ],
)
def test_a_function_that_makes_no_examples_is_told(
    function: Callable[[Examples], Examples], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataUnreadable, match=message):
        read_all(write_csv(tmp_path).map(function))


def test_an_address_where_nothing_answers_is_unavailable() -> None:
    described = parquet(
        "s3://bucket/x.parquet",
        inputs={"input": "x"},
        target="y",
        storage={
            "aws_endpoint": "http://127.0.0.1:9",
            "aws_access_key_id": "a",
            "aws_secret_access_key": "b",
        },
    )
    with pytest.raises(Unavailable, match=r"s3://bucket/x\.parquet cannot be reached"):
        described.open()


def test_an_unknown_option_of_a_store_is_named() -> None:
    described = parquet("s3://b/x", inputs={"input": "x"}, target="y", storage={"aws_colour": "red"})
    with pytest.raises(DataUnreadable, match=r"s3://b/x cannot be opened: .*aws_colour"):
        described.open()


def test_a_library_that_is_not_installed_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = write_csv(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        FailedPrecondition, match=r"needs pyarrow, which is not installed; pip install 'headrace\[data\]'"
    ):
        described.open()


@pytest.mark.parametrize("inputs", [{}, {"input": []}])
def test_a_description_without_a_column_is_a_mistake_in_the_program(inputs: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="name at least one column"):
        csv("x.csv", inputs=inputs, target="y")
