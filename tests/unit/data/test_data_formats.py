"""Every format reads back what another library wrote."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from headrace.data import csv, jsonl, npz, parquet
from headrace.data.rows import StreamedRows, chosen, joined
from headrace.program import Examples
from tests.unit.data.written import INPUTS, TARGET, WRITERS, Write, assert_equal, columns, expected, write_csv


@pytest.mark.parametrize("write", WRITERS)
def test_all_rows_are_read_in_their_order_batch_by_batch(write: Write, tmp_path: Path) -> None:
    batches = list(write(tmp_path).open().batches(30))
    assert max(map(len, batches)) == 30
    assert_equal(joined(batches), expected())


@pytest.mark.parametrize("write", WRITERS)
def test_rows_are_read_in_the_order_asked_for(write: Write, tmp_path: Path) -> None:
    asked = np.array([249, 0, 3, 3, 126, 124, 125, 1])
    assert_equal(write(tmp_path).open().take(asked), chosen(expected(), asked))


@pytest.mark.parametrize("write", WRITERS)
def test_a_sample_is_from_all_over_the_data_and_always_the_same(write: Write, tmp_path: Path) -> None:
    sample = write(tmp_path).open().sample(40)
    assert len(sample) == 40
    assert sample.targets.min() < 60
    assert sample.targets.max() > 190
    assert_equal(write(tmp_path).open().sample(40), sample)


def test_lists_become_further_axes(tmp_path: Path) -> None:
    grids = np.arange(24, dtype=np.float64).reshape(4, 2, 3)
    table = pa.table({"grid": grids.tolist(), "y": [1.0, 2.0, 3.0, 4.0]})
    pq.write_table(table, tmp_path / "x.parquet")
    (batch,) = parquet(tmp_path, inputs={"input": "grid"}, target="y").open().batches(9)
    np.testing.assert_array_equal(batch.inputs["input"], grids.astype(np.float32))
    assert batch.targets.dtype == np.float32


def test_arrays_of_any_shape_are_read_from_npz(tmp_path: Path) -> None:
    pixels = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3)
    np.savez(tmp_path / "x.npz", pixels=pixels, y=np.arange(5, dtype=np.int32))
    rows = npz(tmp_path / "x.npz", inputs={"input": "pixels"}, target="y").open()
    taken = rows.take(np.array([4, 1]))
    np.testing.assert_array_equal(taken.inputs["input"], pixels[[4, 1]])
    assert taken.inputs["input"].dtype == np.uint8  # as stored; map() makes of it what the model wants
    assert taken.targets.dtype == np.int64  # as losses want class numbers


def test_integers_first_and_fractions_later_are_the_same_column_beside_others(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,y\n" + "1,2,0\n" * 3 + "1.5,2,1\n")
    (batch,) = csv(path, inputs={"input": ["a", "b"]}, target="y").open().batches(9)
    np.testing.assert_array_equal(batch.inputs["input"], [[1, 2], [1, 2], [1, 2], [1.5, 2]])


def test_a_delimiter_names_and_types_can_be_given(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("1\t007\n2\t008\n")
    described = csv(
        path, inputs={"input": "a"}, target="a", delimiter="\t", names=["a", "code"], types={"a": "float32"}
    )
    (batch,) = described.open().batches(9)
    assert batch.inputs["input"].dtype == np.float32
    assert batch.inputs["input"].tolist() == [1, 2]


def test_text_becomes_numbers_by_map(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"said": "yes", "y": 1}\n{"said": "no", "y": 0}\n')

    def tokens(batch: Examples) -> Examples:
        return Examples({"input": np.array([[len(text)] for text in batch.inputs["said"]])}, batch.targets)

    described = jsonl(tmp_path / "x.jsonl", inputs={"said": "said"}, target="y")
    (batch,) = described.map(tokens).open().batches(9)
    assert batch.inputs["input"].tolist() == [[3], [2]]


def test_places_are_read_in_the_order_given_and_folders_by_name(tmp_path: Path) -> None:
    for number, name in enumerate(("b/2.csv", "b/10.csv", "a/1.csv", "b/.hidden.csv", "b/_SUCCESS.csv")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"x,y\n{number},{number}\n")
    described = csv([tmp_path / "b", (tmp_path / "a/1.csv").as_uri()], inputs={"input": "x"}, target="y")
    targets = [int(label) for batch in described.open().batches(9) for label in batch.targets]
    assert targets == [1, 0, 2]


def test_only_the_blocks_of_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    """A seek deep into an epoch reads what its step needs: nothing of what lies before."""
    rows = write_small_groups(tmp_path)
    read: list[int] = []
    source = rows._source
    original = source.read

    def counted(block: int) -> Examples:
        read.append(block)
        return original(block)

    source.read = counted  # type: ignore[method-assign]  # to count
    rows.take(rows.assignment(8, 0).share(20, 0, 1))
    assert len(read) <= 2 * 2  # two lanes, each perhaps where it goes from one block to the next


def write_small_groups(folder: Path) -> StreamedRows:
    pq.write_table(pa.table(columns()), folder / "x.parquet", row_group_size=10)
    described = parquet(folder / "x.parquet", inputs=INPUTS, target=TARGET)
    block_bytes = described.open()._source.block_bytes
    return described.shuffled(2 * block_bytes).open()


def test_what_is_kept_in_memory_is_a_block_per_lane_and_two(tmp_path: Path) -> None:
    rows = write_small_groups(tmp_path)
    assignment = rows.assignment(8, 0)
    most = 0
    for step in range(31):
        rows.take(assignment.share(step, 0, 1))
        most = max(most, rows.kept_bytes)
    block = next(rows.batches(10))
    block_bytes = sum(array.nbytes for array in (*block.inputs.values(), block.targets))
    assert 0 < most <= (2 + 2) * block_bytes


def test_a_dataset_is_only_a_description_until_it_is_opened(tmp_path: Path) -> None:
    described = csv(tmp_path / "nowhere.csv", inputs={"input": "x"}, target="y").replicated().shuffled(10)
    write_csv(tmp_path)
    assert described.assigned == "replicated"
