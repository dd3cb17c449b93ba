"""Parts of one data set: together they are all of it, and no row is in two."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data.columns import Array
from headrace.data.part import BlockPart
from headrace.data.rows import chosen, joined
from headrace.errors import DataUnreadable
from headrace.program import Examples
from tests.unit.data.written import (
    WRITERS,
    Write,
    assert_equal,
    expected,
    write_csv,
    write_npz,
    write_parquet,
)

BOUNDS = (0, 0.6, 0.85, 1)


class Numbers:
    """A source whose rows are their own numbers."""

    def __init__(self, block_rows: list[int]) -> None:
        self.block_rows, self.block_bytes = np.array(block_rows), 1

    def read(self, block: int) -> Examples:
        end = int(self.block_rows[: block + 1].sum())
        return Examples({}, np.arange(end - self.block_rows[block], end))

    def keys(self, block: int, column: str) -> Array:
        return self.read(block).targets


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=6), st.floats(0.1, 0.9))
def test_two_parts_make_up_all_rows(block_rows: list[int], bound: float) -> None:
    source = Numbers([*block_rows, 2000])
    parts = [BlockPart(source, 0, bound), BlockPart(source, bound, 1)]
    found = []
    for part in parts:
        read = np.concatenate([part.read(block).targets for block in range(len(source.block_rows))])
        assert len(read) == part.block_rows.sum()
        np.testing.assert_array_equal(part.rows(np.arange(len(read))), read)
        found += read.tolist()
    assert sorted(found) == list(range(sum(block_rows) + 2000))


def test_a_part_is_as_large_as_it_says_and_from_everywhere() -> None:
    rows = BlockPart(Numbers([100_000]), 0.2, 0.7).read(0).targets
    assert len(rows) == pytest.approx(50_000, rel=0.002)
    counts = np.histogram(rows, 50, (0, 100_000))[0]
    assert counts.min() > 900


@pytest.mark.parametrize("write", WRITERS)
def test_parts_of_real_files_are_disjoint_and_read_alike_by_batch_and_by_row(
    write: Write, tmp_path: Path
) -> None:
    described, labels = write(tmp_path), []
    for begin, end in pairwise(BOUNDS):
        rows = described.part(begin, end).open()
        all_rows = joined(list(rows.batches(30)))
        assert_equal(all_rows, chosen(expected(), all_rows.targets))
        asked = np.arange(len(rows))[::-1]
        assert_equal(rows.take(asked), chosen(all_rows, asked))
        labels += all_rows.targets.tolist()
    assert sorted(labels) == expected().targets.tolist()


@pytest.mark.parametrize("write", [write_parquet, write_csv, write_npz])
def test_an_epoch_of_a_part_shows_each_of_its_rows_once_partitioned_too(write: Write, tmp_path: Path) -> None:
    described = write(tmp_path).part(0, 0.5)
    rows = described.open()
    assignment = rows.assignment(16, 0)
    seen = [row for step in range(-(-len(rows) // 16)) for row in assignment.share(step, 0, 1)]
    assert sorted(seen) == list(range(len(rows)))
    partitioned = described.partitioned(by="user").open().assignment(16, 0)
    owners = [
        {int(row) for step in range(60) for row in partitioned.share(step, rank, 2)} for rank in range(2)
    ]
    assert owners[0].isdisjoint(owners[1])
    assert owners[0] | owners[1] == set(range(len(rows)))


@pytest.mark.parametrize(("begin", "end"), [(0.5, 0.5), (0.8, 0.2), (-0.1, 1), (0, 1.5)])
def test_fractions_that_are_none_are_refused(begin: float, end: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give two fractions from 0 to 1"):
        write_csv(tmp_path).part(begin, end)


def test_a_part_without_a_row_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnreadable, match=r"part\(0\.5, 0\.5001\) has none of 250 rows"):
        write_csv(tmp_path).part(0.5, 0.5001).open()
