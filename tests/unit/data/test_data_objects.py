"""Data in object stores: the same rows as from a disk, by requests for ranges of bytes."""

import functools
import http.server
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.data import Dataset, csv, images, jsonl, npz, parquet, text
from headrace.data.rows import chosen, joined
from headrace.errors import DataChanged, DataUnreadable
from headrace.program import Examples
from tests.unit.data.s3_server import Bucket, s3_server
from tests.unit.data.test_data_images import write_images
from tests.unit.data.written import (
    INPUTS,
    TARGET,
    WRITERS,
    Write,
    assert_equal,
    columns,
    expected,
    write_csv,
    write_jsonl,
    write_npz,
    write_parquet,
)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with s3_server() as started:
        yield started


@pytest.mark.parametrize("write", WRITERS)
def test_what_lies_in_a_bucket_reads_as_what_lies_on_a_disk(
    write: Write, bucket: Bucket, tmp_path: Path
) -> None:
    described = write(tmp_path)
    prefix = write.__name__
    bucket.put_folder(tmp_path, prefix)
    rows = in_bucket(described, bucket, prefix, tmp_path).open(bucket.options)
    asked = np.array([249, 0, 3, 126, 124, 125])
    assert_equal(rows.take(asked), chosen(expected(), asked))
    assert_equal(joined(list(rows.batches(30))), expected())


def in_bucket(described: Dataset, bucket: Bucket, prefix: str, folder: Path) -> Dataset:
    places = str(described.format.places).replace(str(folder), f"s3://{bucket.name}/{prefix}")  # type: ignore[attr-defined]  # all formats have places
    return replace(described, format=replace(described.format, places=places))  # type: ignore[type-var]  # all are dataclasses


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("globbed/a/*.csv", [0, 1]),
        ("globbed/**/*.csv", [0, 1, 2]),
        ("globbed/?/[!0]*.csv", [1]),
        ("globbed/", [0, 1, 2]),
        ("globbed/a/0.csv", [0]),
    ],
)
def test_patterns_behind_a_url_mean_what_they_mean_on_a_disk(
    pattern: str, found: list[int], bucket: Bucket, tmp_path: Path
) -> None:
    for number, name in enumerate(("a/0.csv", "a/1.csv", "b/c/2.csv")):
        path = tmp_path / "globbed" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"x,y\n1,{number}\n")
    bucket.put_folder(tmp_path / "globbed", "globbed")
    for place in (f"s3://{bucket.name}/{pattern}", str(tmp_path / pattern)):
        rows = csv(place, inputs={"input": "x"}, target="y").open(bucket.options)
        assert [int(label) for batch in rows.batches(9) for label in batch.targets] == found


def test_only_the_columns_of_the_row_groups_asked_for_are_fetched(bucket: Bucket, tmp_path: Path) -> None:
    write_parquet(tmp_path)
    bucket.put_folder(tmp_path, "columns")
    described = parquet(f"s3://{bucket.name}/columns", inputs={"input": "count"}, target=TARGET)
    rows = described.open(bucket.options)
    fetched: list[int] = []
    for index, file in enumerate(rows._source._files):  # type: ignore[attr-defined]  # to count
        rows._source._files[index] = Counted(file, fetched)  # type: ignore[attr-defined]
    rows.take(np.array([0, 5]))
    assert 0 < sum(fetched) < sum(path.stat().st_size for path in tmp_path.iterdir()) / 5


class Counted:
    """A file that notes how many bytes were read."""

    def __init__(self, file: object, fetched: list[int]) -> None:
        self._file, self._fetched = file, fetched

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)

    def read(self, start: int, end: int) -> bytes:
        self._fetched.append(end - start)
        return self._file.read(start, end)  # type: ignore[attr-defined,no-any-return]  # it is a File


def test_an_object_that_changes_under_the_run_is_refused(bucket: Bucket, tmp_path: Path) -> None:
    write_csv(tmp_path)
    bucket.put_folder(tmp_path, "changing")
    url = f"s3://{bucket.name}/changing/table.csv"
    rows = csv(url, inputs=INPUTS, target=TARGET).open(bucket.options)
    content = (tmp_path / "table.csv").read_bytes()
    bucket.put("changing/table.csv", content.replace(b"user 1", b"user 2"))  # as long as before
    with pytest.raises(DataChanged, match=f"{url} changed since the run began"):
        rows.take(np.array([0]))


def test_what_is_not_in_a_bucket_is_named(bucket: Bucket) -> None:
    described = jsonl(f"s3://{bucket.name}/nothing/here.jsonl", inputs={"input": "x"}, target="y")
    with pytest.raises(DataUnreadable, match=r"no files .* at s3://bucket/nothing/here\.jsonl"):
        described.open(bucket.options)


def test_what_the_program_says_of_a_store_comes_before_what_the_node_says(
    bucket: Bucket, tmp_path: Path
) -> None:
    write_jsonl(tmp_path)
    bucket.put_folder(tmp_path, "said")
    wrong = bucket.options | {"aws_endpoint": "http://127.0.0.1:9"}
    url = f"s3://{bucket.name}/said/table.jsonl"
    said = jsonl(url, inputs=INPUTS, target=TARGET, storage={"aws_endpoint": bucket.endpoint})
    assert len(said.open(wrong)) == len(columns()[TARGET])


def test_text_and_images_are_read_from_a_bucket(bucket: Bucket, tmp_path: Path) -> None:
    bucket.put("book.txt", bytes(range(100)))
    (batch,) = text(f"s3://{bucket.name}/book.txt", context=33).open(bucket.options).batches(9)
    assert batch.inputs["tokens"][:, 0].tolist() == [0, 33, 66]
    assert batch.targets[:, -1].tolist() == [33, 66, 99]
    write_images(tmp_path)
    bucket.put_folder(tmp_path, "pets")
    there = images(f"s3://{bucket.name}/pets", size=(4, 4)).open(bucket.options)
    here = images(tmp_path, size=(4, 4)).open()
    order = np.array([3, 0, 5])
    assert_equal(there.take(order), here.take(order))


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, ranges included, without a log."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        start, end = 0, path.stat().st_size
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end = int(first), int(last) + 1
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Last-Modified", self.date_time_string())
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{path.stat().st_size}")
        self.end_headers()
        self.wfile.write(path.read_bytes()[start:end])


def test_a_single_file_is_read_from_a_plain_web_server(tmp_path: Path) -> None:
    write_npz(tmp_path)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/part-1.npz"
        rows = npz(url, inputs=INPUTS, target=TARGET).open()
        taken = rows.take(np.array([1, 0]))
        server.shutdown()
    assert isinstance(taken, Examples)
    assert_equal(taken, chosen(expected(), np.array([84, 83])))
