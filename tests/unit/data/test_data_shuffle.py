"""The orders of an epoch: permutations that need no memory, and how well they mix."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.data.permutation import Permutation
from headrace.data.shuffle import LaneShuffle, lanes_within

seeds = st.integers(0, 2**64 - 1)
sizes = st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any)


@given(st.integers(0, 300), seeds)
def test_a_permutation_leads_every_place_somewhere_else(size: int, seed: int) -> None:
    assert sorted(Permutation(size, seed)(np.arange(size))) == list(range(size))


@given(st.integers(1, 10**15), seeds, st.data())
def test_a_place_leads_to_the_same_whoever_asks_for_what_else(
    size: int, seed: int, data: st.DataObject
) -> None:
    places = np.array(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5)))
    together = Permutation(size, seed)(places)
    alone = [Permutation(size, seed)(places[index : index + 1])[0] for index in range(len(places))]
    np.testing.assert_array_equal(together, alone)
    assert ((together >= 0) & (together < size)).all()


@pytest.mark.parametrize("size", [5, 8, 100])
def test_every_place_is_led_anywhere_equally_often(size: int) -> None:
    """Over 4000 seeds, against the binomial distribution: within 5 standard deviations in all size**2 cells."""
    seeds = 4000
    counts = np.zeros((size, size))
    for seed in range(seeds):
        counts[np.arange(size), Permutation(size, seed)(np.arange(size))] += 1
    deviation = np.sqrt(seeds * (1 / size) * (1 - 1 / size))
    assert np.abs(counts - seeds / size).max() < 5 * deviation


@given(sizes, st.integers(1, 12), seeds, st.integers(0, 3))
def test_lanes_show_every_row_of_every_block_once(
    block_rows: list[int], lanes: int, seed: int, epoch: int
) -> None:
    shuffle = LaneShuffle(np.array(block_rows), lanes, seed, epoch)
    assert sorted(shuffle(np.arange(sum(block_rows)))) == list(range(sum(block_rows)))


@given(sizes, st.integers(1, 12), st.integers(0, 400), st.integers(1, 40))
def test_a_part_of_an_epoch_is_the_same_as_in_the_whole(
    block_rows: list[int], lanes: int, begin: int, count: int
) -> None:
    shuffle = LaneShuffle(np.array(block_rows), lanes, 1)
    places = np.arange(sum(block_rows))[begin : begin + count]
    np.testing.assert_array_equal(shuffle(places), shuffle(np.arange(sum(block_rows)))[places])


def test_a_batch_has_rows_of_as_many_blocks_as_there_are_lanes() -> None:
    """Sorted data: each block has one class. 12 lanes of 48 blocks show 8 to 14 of them in a batch of 48."""
    order = LaneShuffle(np.full(48, 1000), 12, 0)(np.arange(48_000))
    blocks = (order // 1000).reshape(-1, 48)
    distinct = np.array([len(np.unique(batch)) for batch in blocks])
    assert distinct.min() >= 8
    assert np.median(distinct) >= 12


def test_rows_that_were_neighbours_are_far_apart_within_a_block() -> None:
    order = LaneShuffle(np.full(10, 1000), 2, 0)(np.arange(10_000))
    places = np.argsort(order)
    assert np.median(np.abs(np.diff(places))) > 300


def test_workers_whose_number_divides_the_lanes_need_blocks_of_their_own_only() -> None:
    """Each of 4 workers reads a quarter of the blocks, and those at the ends of its lanes."""
    rows = np.full(100, 50)
    shuffle = LaneShuffle(rows, 12, 5)
    read = [np.unique(shuffle(np.arange(worker, 5000, 4)) // 50) for worker in range(4)]
    assert sum(map(len, read)) <= 100 + 12


def test_walking_through_an_epoch_needs_one_block_per_lane_at_a_time() -> None:
    order = LaneShuffle(np.full(60, 100), 6, 2)(np.arange(6000)) // 100
    spans = [np.flatnonzero(order == block)[[0, -1]] for block in range(60)]
    begins, ends = np.array(sorted(span[0] for span in spans)), np.array(sorted(span[1] for span in spans))
    open_at = [int((begins <= place).sum() - (ends < place).sum()) for place in range(6000)]
    # A block where two lanes meet is needed at the end of one and at the beginning of the other: 5 such, counted throughout here.
    assert max(open_at) <= 6 + 1 + 5


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    rows = np.full(6, 20)
    orders = [tuple(LaneShuffle(rows, 2, *key)(np.arange(120))) for key in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len(set(orders)) == 4


@pytest.mark.parametrize(
    ("memory", "block", "blocks", "lanes"),
    [
        (100, 10, 50, 6),
        (240, 10, 50, 24),
        (0, 10, 50, 1),
        (1000, 10, 7, 7),
        (95, 100, 3, 1),
        (10**9, 1, 1000, 1000),
        (900, 1, 1000, 192),
    ],
)
def test_lanes_are_a_number_that_many_divide(memory: int, block: int, blocks: int, lanes: int) -> None:
    assert lanes_within(memory, block, blocks) == lanes
