"""Ranks that hold the values themselves are lost and join, between any two steps and in the midst of one: nothing is lost, or done twice."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.errors import Cancelled, DataLoss, HeadraceError, MembersChanged, StorageFull, Unavailable
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.config import AdamW, Sgd
from headrace_training.core.agreement import NOTHING, Member, Standing, agree
from headrace_training.core.all_reduce import AllReduce
from headrace_training.core.group import AS_LONG_AS_IT_TAKES
from headrace_training.core.local_sgd import LocalSgd
from tests.unit.training.hall import Generation, Hall, Killed, Visitor
from tests.unit.training.lockstep_group import LockstepGroup, Shelf, lockstep_groups

LAYOUT = FlatLayout((TensorSpec("weight", (2, 2)), TensorSpec("bias", (2,))))
STEPS, BATCH = 6, 5
ADAMW = AdamW(0.05, weight_decay=0.1)

STANDINGS = st.one_of(
    st.just(NOTHING),
    st.builds(lambda *told: Standing(*told).number, st.integers(0, 99), st.booleans(), st.booleans()),
)


@given(STANDINGS.filter(bool))
def test_a_standing_survives_its_journey(number: int) -> None:
    assert Standing.of(number).number == number


@given(st.lists(STANDINGS, min_size=1, max_size=6))
def test_all_end_where_the_furthest_is_and_only_those_that_are_there_keep_what_they_have(
    numbers: list[int],
) -> None:
    if not any(numbers):
        with pytest.raises(Unavailable, match="only a checkpoint"):
            agree(numbers)
        return
    agreement = agree(numbers)
    assert numbers[agreement.source] == max(numbers) == agreement.standing.number
    for place, number in enumerate(numbers):
        has_it = place == agreement.source or (number == max(numbers) and Standing.of(number).agreed)
        assert agreement.takes(place, number) is not has_it
        assert agreement.everything or number == max(numbers), (
            "who is behind needs the optimizer's state, too"
        )


def first(rank: int) -> Floats:
    return np.random.default_rng(1000 + rank).normal(size=LAYOUT.size).astype(np.float32)


def gradient(step: int, place: int, count: int) -> tuple[Floats, int]:
    """Return the mean over this place's examples of a step, and how many there are."""
    mine = [
        np.random.default_rng([step, example]).normal(size=LAYOUT.size)
        for example in range(place, BATCH, count)
    ]
    return np.mean(mine or [np.zeros(LAYOUT.size)], axis=0).astype(np.float32), len(mine)


Make = Callable[[Visitor, Member], AllReduce]
End = Floats | BaseException  # values, or what the rank ended of


def all_reduce(visitor: Visitor, member: Member) -> AllReduce:
    return AllReduce(visitor.join, ADAMW, Shelf(), member=member)


def local_sgd(visitor: Visitor, member: Member) -> AllReduce:
    return LocalSgd(2, STEPS, visitor.join, Sgd(0.1), Shelf(), member=member)


def one(hall: Hall, rank: int, make: Make) -> End:
    """Be a rank, as `Rank` is; return the values it ends with, or what it ends of."""
    member = Member(rank, founder=rank in hall.generations[0].members)
    values = first(0 if member.founder else rank)
    buffer = torch.full((1,), rank, dtype=torch.int64)
    try:
        with make(Visitor(hall, rank), member) as synchronizer:
            place = synchronizer.begin(LAYOUT, torch.from_numpy(values), (), [buffer])
            assert place
            step = place.step
            while True:
                try:
                    while step < STEPS:
                        mine, samples = gradient(step, place.index, place.count)
                        step = synchronizer.step(step, torch.from_numpy(mine), samples)
                    if not place.leads:
                        synchronizer.stay()
                    break
                except MembersChanged:
                    place = synchronizer.rejoin()
                    step = max(step, place.step)
    except (Killed, Cancelled) as error:
        return error
    except Unavailable as error:
        hall.leave()
        return error
    hall.leave()
    assert member.founder or buffer.item() != rank, "who joins has the buffers of another one"
    return values


def run(generations: list[Generation], make: Make = all_reduce) -> dict[int, End]:
    hall = Hall(generations)
    ranks = sorted({rank for generation in generations for rank in generation.members})
    with ThreadPoolExecutor(len(ranks)) as pool:
        futures = {rank: pool.submit(one, hall, rank, make) for rank in ranks}
        return {rank: future.result(timeout=60) for rank, future in futures.items()}


def assert_end(ended: dict[int, End], ranks: tuple[int, ...], values: Floats) -> None:
    for rank in ranks:
        end = ended[rank]
        assert isinstance(end, np.ndarray), end
        np.testing.assert_allclose(end, values, rtol=0, atol=1e-6)


def undisturbed() -> Floats:
    """What one process makes of the whole batches, by torch alone."""
    values = torch.nn.Parameter(torch.from_numpy(first(0)))
    optimizer = torch.optim.AdamW([values], lr=0.05, weight_decay=0.1)
    for step in range(STEPS):
        values.grad = torch.from_numpy(gradient(step, 0, 1)[0])
        optimizer.step()
    return np.asarray(values.detach())


@st.composite
def histories(draw: st.DrawFn) -> list[Generation]:
    """Draw who is lost or joins, in which sum, and on whom that sum still came out."""
    members, next_rank, made = tuple(range(draw(st.integers(1, 3)))), 3, []
    for _ in range(draw(st.integers(0, 3))):
        dead = frozenset(draw(st.sets(st.sampled_from(members), max_size=len(members) - 1)))
        complete = frozenset(draw(st.sets(st.sampled_from(members))))
        made.append(Generation(members, draw(st.integers(1, 14)), complete, dead))
        members = tuple(rank for rank in members if rank not in dead)
        if draw(st.booleans()):
            members, next_rank = (*members, next_rank), next_rank + 1
    return [*made, Generation(members)]


@settings(max_examples=60, deadline=None)
@given(histories())
def test_a_run_whose_ranks_come_and_go_ends_where_an_undisturbed_one_does(history: list[Generation]) -> None:
    ended = run(history)
    if any(isinstance(end, Unavailable) for end in ended.values()):
        assert not set(history[-1].members) & set(history[0].members), (
            "only those that have just joined have none"
        )
        return
    done = [end for end in ended.values() if isinstance(end, np.ndarray)]
    assert done, "somebody comes to the end"
    for values in done:
        np.testing.assert_allclose(values, undisturbed(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("complete", [(), (0,), (1,), (0, 1)])
def test_a_step_that_has_ended_on_some_is_not_done_again(complete: tuple[int, ...]) -> None:
    """The fourth sum is that of the first step; the first two are of the meeting, the third has the first values."""
    ended = run([Generation((0, 1, 2), 4, frozenset(complete), frozenset({2})), Generation((0, 1))])
    assert isinstance(ended[2], Killed)
    assert_end(ended, (0, 1), undisturbed())


def by_hand(values: Floats, steps: range, place: int, count: int) -> tuple[Floats, int]:
    """Do steps of plain SGD with one place's share; return the values and how many examples there were."""
    seen = 0
    for step in steps:
        mine, samples = gradient(step, place, count)
        values = values - np.float32(0.1) * mine
        seen += samples
    return values, seen


def mean(*parts: tuple[Floats, int]) -> Floats:
    total = np.sum([values * seen for values, seen in parts], axis=0)
    return np.asarray(total / sum(seen for _, seen in parts), np.float32)


def test_a_mean_that_a_rank_was_lost_in_is_taken_of_those_that_are_left() -> None:
    ended = run([Generation((0, 1, 2), 4, frozenset(), frozenset({2})), Generation((0, 1))], local_sgd)
    values = mean(*(by_hand(first(0), range(2), place, 3) for place in (0, 1)))
    for began in (2, 4):
        values = mean(*(by_hand(values, range(began, began + 2), place, 2) for place in (0, 1)))
    assert_end(ended, (0, 1), values)


def test_whoever_missed_a_mean_goes_on_with_one_that_has_it_and_is_ahead() -> None:
    """Rank 1 has the mean of all three, and is at the next one when it hears of the change."""
    ended = run([Generation((0, 1, 2), 4, frozenset({1}), frozenset({2})), Generation((0, 1))], local_sgd)
    values = mean(*(by_hand(first(0), range(2), place, 3) for place in range(3)))
    values, _ = by_hand(values, range(2, 4), 1, 3)
    values = mean(*(by_hand(values, range(4, 6), place, 2) for place in (0, 1)))
    assert_end(ended, (0, 1), values)


def test_a_rank_that_joins_local_sgd_takes_the_mean_that_is_due() -> None:
    ended = run([Generation((0, 1), 4), Generation((0, 1, 3))], local_sgd)
    values = mean(*(by_hand(first(0), range(2), place, 2) for place in (0, 1)))
    for began in (2, 4):
        values = mean(*(by_hand(values, range(began, began + 2), place, 3) for place in range(3)))
    assert_end(ended, (0, 1, 3), values)


@pytest.mark.parametrize("trouble", [Unavailable, DataLoss, StorageFull])
def test_a_rank_s_own_trouble_is_no_reason_for_the_others_to_fail(trouble: type[HeadraceError]) -> None:
    """What it has received is damaged, say: another rank may get it whole, as another attempt might."""
    (group,) = lockstep_groups(1)
    rank = AllReduce(lambda: group, ADAMW, Shelf(), member=Member(0, founder=True))
    rank.begin(LAYOUT, torch.from_numpy(first(0)))
    rank.__exit__(trouble, trouble("it came damaged"), None)
    assert not group.note()


def test_whoever_stays_for_the_result_waits_longer_than_a_step_may_take() -> None:
    waits: list[float | None] = []

    class Watched(LockstepGroup):
        def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
            waits.append(timeout_s)
            super().sum(vector, timeout_s)

    group = Watched(0, 1, lockstep_groups(1)[0].meeting)
    rank = AllReduce(lambda: group, ADAMW, Shelf(), member=Member(1, founder=True))
    rank.begin(LAYOUT, torch.from_numpy(first(0)))
    mine, samples = gradient(0, 0, 1)
    rank.step(0, torch.from_numpy(mine), samples)
    rank.stay()
    assert waits[-2:] == [None, AS_LONG_AS_IT_TAKES]
