"""Who gets which row in which step: exactly once per epoch, whatever the workers do."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data.assignment import Assignment, Replicated, Sharded
from headrace.data.dataset import Dataset
from headrace.data.partition import Partitioned, buckets_of
from headrace.data.shuffle import LaneShuffle
from tests.unit.data.written import USERS, WRITERS, Write, columns, write_csv, write_npz, write_parquet

blocks = st.lists(st.integers(1, 20), min_size=1, max_size=8)
batch_sizes = st.integers(1, 40)
worlds = st.lists(st.integers(1, 6), min_size=1, max_size=30)


def sharded(block_rows: list[int], batch_size: int, lanes: int = 3) -> Sharded:
    return Sharded(
        sum(block_rows), batch_size, lambda epoch: LaneShuffle(np.array(block_rows), lanes, 7, epoch)
    )


def step_of(assignment: Assignment, step: int, world_size: int) -> list[int]:
    """Return what all workers together take."""
    return [int(row) for rank in range(world_size) for row in assignment.share(step, rank, world_size)]


@given(blocks, batch_sizes, worlds, st.integers(0, 3))
def test_each_row_is_shown_once_per_epoch_with_any_number_of_workers_in_any_step(
    block_rows: list[int], batch_size: int, world_sizes: list[int], epoch: int
) -> None:
    """Workers come and go between any two steps."""
    assignment = sharded(block_rows, batch_size)
    steps = range(epoch * assignment.steps_per_epoch, (epoch + 1) * assignment.steps_per_epoch)
    seen = [row for step in steps for row in step_of(assignment, step, world_sizes[step % len(world_sizes)])]
    assert sorted(seen) == list(range(sum(block_rows)))


@given(blocks, batch_sizes, st.integers(0, 100), worlds)
def test_the_rows_of_a_step_do_not_depend_on_the_workers_nor_on_what_came_before(
    block_rows: list[int], batch_size: int, step: int, world_sizes: list[int]
) -> None:
    assignment, fresh = sharded(block_rows, batch_size), sharded(block_rows, batch_size)
    for earlier, world_size in enumerate(world_sizes):
        step_of(assignment, earlier, world_size)
    assert sorted(step_of(assignment, step, world_sizes[-1])) == sorted(step_of(fresh, step, 1))


@given(blocks, batch_sizes, st.integers(1, 6), st.integers(0, 50))
def test_the_shares_of_a_step_differ_by_one_row_at_most(
    block_rows: list[int], batch_size: int, world_size: int, step: int
) -> None:
    shares = [
        len(sharded(block_rows, batch_size).share(step, rank, world_size)) for rank in range(world_size)
    ]
    assert max(shares) - min(shares) <= 1


@given(blocks, st.integers(1, 12), st.integers(1, 4), st.data())
def test_replicated_workers_each_see_every_row_once_per_epoch_of_their_own(
    block_rows: list[int], batch_size: int, world_size: int, data: st.DataObject
) -> None:
    rows = sum(block_rows)
    rank = data.draw(st.integers(0, min(world_size, batch_size) - 1))
    assignment = Replicated(
        rows, batch_size, lambda worker, epoch: LaneShuffle(np.array(block_rows), 3, 7, worker, epoch)
    )
    share = len(assignment.share(0, rank, world_size))
    steps = -(-2 * rows // share)
    seen = np.concatenate([assignment.share(step, rank, world_size) for step in range(steps)])
    assert sorted(seen[:rows]) == sorted(seen[rows : 2 * rows]) == list(range(rows))


def test_replicated_workers_have_orders_of_their_own(tmp_path: Path) -> None:
    assignment = write_parquet(tmp_path).replicated().open().assignment(50, 1)
    first, second = (assignment.share(0, rank, 2) for rank in range(2))
    assert len(first) == len(second) == 25
    assert not np.array_equal(first, second)


@given(
    st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), min_size=1, max_size=6), st.integers(1, 5)
)
def test_partitioned_rows_of_one_key_go_to_one_worker_each_once_per_epoch(
    keys: list[list[int]], world_size: int
) -> None:
    assignment = Partitioned(
        len(keys), lambda block: np.array(keys[block]), 10, lambda sizes, *key: LaneShuffle(sizes, 2, *key)
    )
    flat = np.concatenate([np.array(block) for block in keys])
    for rank in range(world_size):
        own = np.flatnonzero(buckets_of(flat) % world_size == rank)
        seen: list[int] = []
        for step in range(len(own)):
            seen += assignment.share(step, rank, world_size).tolist()
        assert sorted(seen[: len(own)]) == own.tolist()
        assert set(seen) <= set(own.tolist())


@pytest.mark.parametrize("write", [write_parquet, write_csv, write_npz])
def test_a_column_partitions_real_files(write: Write, tmp_path: Path) -> None:
    assignment = write(tmp_path).partitioned(by="user").open().assignment(30, 0)
    owners = [{int(row) % USERS for row in step_rows(assignment, rank)} for rank in range(3)]
    assert sum(map(len, owners)) == len(set.union(*owners)) == USERS


@pytest.mark.parametrize("assigned", [lambda rows: rows.replicated(), lambda rows: rows.partitioned("user")])
def test_a_sample_of_more_than_there_is_has_each_row_once(
    assigned: Callable[[Dataset], Dataset], tmp_path: Path
) -> None:
    rows = assigned(write_npz(tmp_path)).open()
    assert sorted(rows.sample(10 * len(rows)).targets.tolist()) == columns()["label"].tolist()


def step_rows(assignment: Assignment, rank: int) -> list[int]:
    return [row for step in range(60) for row in assignment.share(step, rank, 3).tolist()]


def test_text_and_integers_fall_into_the_same_buckets_on_every_machine() -> None:
    """Written down: a change would move keys between the workers of a run that is resumed."""
    assert buckets_of(np.array(["ann", "bob", "ö", "ann"], object)).tolist() == [17, 723, 791, 17]
    assert buckets_of(np.array([0, 1, -5])).tolist() == [0, 485, 846]


@pytest.mark.parametrize("write", WRITERS)
def test_an_epoch_of_real_files_shows_each_row_once(write: Write, tmp_path: Path) -> None:
    rows = write(tmp_path).shuffled(4000).open()
    assignment = rows.assignment(16, 3)
    labels = [
        label
        for step in range(-(-len(rows) // 16))
        for rank in range(3)
        if len(share := assignment.share(step, rank, 3))
        for label in rows.take(share).targets.tolist()
    ]
    assert sorted(labels) == columns()["label"].tolist()
