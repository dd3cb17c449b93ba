import subprocess
import sys
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import InvalidArgument
from headrace.parameters.keys import ARCS
from headrace.parameters.ranges import Shared, length, shared
from headrace.parameters.shard_map import BLOCKS, ShardMap
from headrace.parameters.wire import map_from_proto, map_to_proto

SIZES = st.integers(1, 600) | st.sampled_from([4096, 4097, 9973])  # blocks of one value, and of some

FEWER = settings(
    deadline=None, max_examples=30
)  # each example is a history of maps, of which there are seven tests


@st.composite
def histories(draw: st.DrawFn) -> list[ShardMap]:
    """A store's maps, each made from the one before by shards that join and leave."""
    maps = [ShardMap.first(draw(SIZES), draw(st.integers(1, 8)))]
    unused = len(maps[0].shards)
    for _ in range(draw(st.integers(1, 6))):
        now = maps[-1].shards
        joining = draw(st.integers(0, 3))
        leaving = draw(st.sets(st.sampled_from(now), max_size=len(now) - (joining == 0)))
        maps.append(maps[-1].changed(range(unused, unused + joining), leaving))
        unused += joining
    return maps


def values_of(held: Iterable[range]) -> set[int]:
    return {value for part in held for value in part}


def blocks_of(shard_map: ShardMap, shard: int) -> int:
    """Count the blocks that a shard holds."""
    edges = [block * shard_map.size // shard_map.blocks for block in range(shard_map.blocks)]
    held = values_of(shard_map.held(shard))
    return sum(edge in held for edge in edges)


@given(size=SIZES, count=st.integers(1, 50))
def test_the_first_shards_hold_one_range_each_and_equally_much(size: int, count: int) -> None:
    first = ShardMap.first(size, count)

    assert [value for shard in first.shards for part in first.held(shard) for value in part] == list(
        range(size)
    )
    assert all(len(held) <= 1 for held in first.ranges.values())
    lengths = [first.length(shard) for shard in first.shards]
    assert max(lengths) - min(lengths) <= 1


@FEWER
@given(histories())
def test_every_value_is_in_exactly_one_shard(maps: list[ShardMap]) -> None:
    for made in maps:
        held = [value for shard in made.shards for part in made.held(shard) for value in part]
        assert sorted(held) == list(range(made.size))


@FEWER
@given(histories())
def test_no_shard_holds_a_block_more_than_another(maps: list[ShardMap]) -> None:
    for made in maps[1:]:
        blocks = [blocks_of(made, shard) for shard in made.shards]
        assert sum(blocks) == made.blocks
        assert max(blocks) - min(blocks) <= 1


@FEWER
@given(histories())
def test_no_more_moves_than_equal_shares_need(maps: list[ShardMap]) -> None:
    """A shard that stays gains or loses, but not both."""
    for before, after in pairwise(maps):
        for shard in set(before.shards) & set(after.shards):
            had, has = values_of(before.held(shard)), values_of(after.held(shard))
            assert had <= has or has <= had


@FEWER
@given(histories())
def test_neighbouring_ranges_of_a_shard_are_one(maps: list[ShardMap]) -> None:
    for made in maps:
        for held in made.ranges.values():
            assert all(one.stop < other.start for one, other in pairwise(held))


@FEWER
@given(histories())
def test_maps_survive_the_wire_and_count_up(maps: list[ShardMap]) -> None:
    assert [made.epoch for made in maps] == list(range(1, len(maps) + 1))
    for made in maps:
        assert map_from_proto(map_to_proto(made)) == made


def test_a_new_shard_takes_an_equal_share_in_few_ranges() -> None:
    grown = ShardMap.first(10**8, 4).changed(add=[4])

    assert all(abs(grown.length(shard) / 2e7 - 1) < 4 / BLOCKS * 5 for shard in grown.shards)
    assert max(len(held) for held in grown.ranges.values()) <= 8


def test_a_map_is_the_same_in_every_process() -> None:
    program = (
        "from headrace.parameters.shard_map import ShardMap;"
        "print(ShardMap.first(1000, 2).changed(add=[2]).changed(add=[3], remove=[0]).ranges)"
    )

    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout

    made = ShardMap.first(1000, 2).changed(add=[2]).changed(add=[3], remove=[0])
    assert found.strip() == str(made.ranges)
    # Written down, so that another version of Python, or of this program, is noticed.
    assert made.held(3) == PLACES_OF_SHARD_3


PLACES_OF_SHARD_3 = (range(41, 113), range(176, 377), range(378, 435), range(497, 500))


@pytest.mark.parametrize(
    ("add", "remove", "message"),
    [
        ([0], [], r"shards \[0\] cannot join"),
        ([], [2], r"\[2\] leave, shards \[0, 1\]"),
        ([], [0, 1], "no shard would be left"),
    ],
)
def test_a_change_that_cannot_be_is_refused(add: list[int], remove: list[int], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        ShardMap.first(10, 2).changed(add, remove)


@pytest.mark.parametrize(
    "ranges",
    [
        {0: (range(5),)},
        {0: (range(5),), 1: (range(4, 10),)},
        {0: (range(5),), 1: (range(6, 10),)},
        {0: (range(5),), 1: (range(5, 11),)},
        {0: (range(5), range(5, 5)), 1: (range(5, 10),)},
    ],
)
def test_a_map_with_gaps_or_overlaps_is_refused(ranges: dict[int, tuple[range, ...]]) -> None:
    with pytest.raises(InvalidArgument, match="a shard map"):
        ShardMap(1, 10, 10, ranges)


def test_a_map_that_cuts_blocks_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="whole blocks"):
        ShardMap(1, 10, 2, {0: (range(4),), 1: (range(4, 10),)})


def test_renumbered_shards_hold_what_they_held() -> None:
    left = ShardMap.first(90, 3).changed(remove=[1])

    anew = left.renumbered()

    assert (anew.epoch, anew.shards) == (1, (0, 1))
    assert [anew.held(0), anew.held(1)] == [left.held(0), left.held(2)]


def test_what_two_selections_share_is_told_by_its_place_in_both() -> None:
    found = list(shared([range(6), range(7, 9)], [range(4, 8), range(8, 9)]))

    assert found == [Shared(4, 0, range(4, 6)), Shared(6, 3, range(7, 8)), Shared(7, 4, range(8, 9))]
    assert length([range(6), range(7, 9)]) == 8
    assert list(shared([], [range(3)])) == []


@FEWER
@given(histories())
def test_every_arc_of_keys_is_in_one_shard_and_no_more_move_than_equal_shares_allow(
    maps: list[ShardMap],
) -> None:
    for before, made in pairwise(maps):
        shares = np.bincount(made.arc_owners, minlength=max(made.shards) + 1)[list(made.shards)]
        assert shares.sum() == ARCS
        assert shares.max() - shares.min() <= 1
        moved = before.arc_owners != made.arc_owners
        from_those_that_left = ~np.isin(before.arc_owners, made.shards)
        to_those_that_joined = ~np.isin(made.arc_owners, before.shards)
        assert moved.sum() <= max(from_those_that_left.sum(), to_those_that_joined.sum()) + len(made.shards)


@FEWER
@given(histories())
def test_arcs_go_over_the_wire_and_stay_where_they_are_when_shards_are_numbered_anew(
    maps: list[ShardMap],
) -> None:
    last = maps[-1]
    renumbered = last.renumbered()

    assert map_from_proto(map_to_proto(last)).arcs == last.arcs
    assert np.array_equal(np.array(last.shards)[renumbered.arc_owners], last.arc_owners)


def test_a_map_in_which_an_arc_is_in_no_shard_or_in_two_is_refused() -> None:
    message = map_to_proto(ShardMap.first(100, 2).changed(add=[2]))
    del message.shards[0].arcs[0]
    with pytest.raises(InvalidArgument, match="arcs"):
        map_from_proto(message)
    message = map_to_proto(ShardMap.first(100, 2).changed(add=[2]))
    message.shards[0].arcs[-1].stop += 1
    with pytest.raises(InvalidArgument, match="arcs"):
        map_from_proto(message)
