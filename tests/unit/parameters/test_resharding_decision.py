"""What a shard in doubt concludes from the map of another one."""

from dataclasses import replace
from pathlib import Path

import pytest

from headrace.parameters.shard_map import ShardMap
from headrace_parameters.core.decision import decided
from headrace_parameters.journal.folders import Generation, find_folders

NOW = ShardMap.first(1000, 2)
FOLLOWING = NOW.changed(add=[2], remove=[1])
STAYS, LEAVES, JOINS = 0, 1, 2


@pytest.mark.parametrize("shard", [STAYS, LEAVES, JOINS])
def test_the_next_map_elsewhere_is_the_decision_wherever_its_shards_are_by_now(shard: int) -> None:
    moved = replace(FOLLOWING, addresses={0: "elsewhere:1"})

    assert decided(shard, NOW, FOLLOWING, moved, making=0) is True


@pytest.mark.parametrize("shard", [STAYS, LEAVES, JOINS])
def test_who_has_the_old_map_and_makes_none_has_given_up(shard: int) -> None:
    assert decided(shard, NOW, FOLLOWING, NOW, making=0) is False


@pytest.mark.parametrize("shard", [STAYS, LEAVES, JOINS])
def test_who_is_held_for_the_same_map_does_not_know(shard: int) -> None:
    assert decided(shard, NOW, FOLLOWING, NOW, making=FOLLOWING.epoch) is None


def test_a_shard_that_leaves_is_not_asked_for_the_maps_that_come_after() -> None:
    after = FOLLOWING.changed(add=[3])

    assert decided(LEAVES, NOW, FOLLOWING, after, making=0) is True


def test_a_shard_that_did_not_come_in_is_in_none_of_the_maps_that_come_after() -> None:
    other = NOW.changed(add=[3])

    assert decided(JOINS, NOW, FOLLOWING, other, making=0) is False
    assert decided(JOINS, NOW, FOLLOWING, other.changed(add=[4]), making=0) is False


def test_the_newest_folder_holds_and_only_what_is_staged_beyond_it_is_in_doubt(tmp_path: Path) -> None:
    for name in (
        "2",
        "3",
        "3.2",
        "3.10",
        "3.2.staged",
        "3.11.staged",
        "2.12.staged",
        "3.12.abc.new",
        "3.9.gone",
    ):
        (tmp_path / name).mkdir()

    found = find_folders(tmp_path)

    assert found.placed == (Generation(2), Generation(3), Generation(3, 2), Generation(3, 10))
    assert str(found.placed[-1]) == "3.10"
    assert found.in_doubt == Generation(3, 11)
