"""Whole runs whose workers come, die, freeze and thaw in any order: nothing is lost, nothing counts twice, nobody waits for ever."""

from itertools import count

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.parameters.layout import Floats
from headrace_optimizers.config import AdamW, Optimizer, Sgd
from headrace_parameters.core.config import Consistency
from headrace_parameters.core.members import MembersChange
from headrace_parameters.core.shard import Push, Shard
from tests.unit.parameters.changing_run import BATCH, STEPS, Run, gradient_of, new_run, new_shard


def play(run: Run, data: st.DataObject) -> None:
    """Let things happen until the members are done; the changes fall anywhere in the run."""
    changes = sorted(data.draw(st.lists(st.integers(0, 100), max_size=3)))
    for time in count():
        if run.over():
            return
        if changes and time >= changes[0]:
            changes.pop(0)
            change(run, data)
        events: list[int | Shard] = [*run.runnable(), *run.undelivered()]
        assert events, "a deadlock"
        event = data.draw(st.sampled_from(events))
        if isinstance(event, Shard):
            event.change_members(MembersChange(run.generation, run.members))
        else:
            run.step(event)
        check_bound(run)


def change(run: Run, data: st.DataObject) -> None:
    joining = data.draw(st.booleans())
    may_leave = run.members if joining or len(run.members) > 1 else ()
    leaving = data.draw(st.sampled_from([None, *may_leave]))
    run.change(leaving, joining)
    if leaving is not None and data.draw(st.booleans()):
        run.lives.pop(leaving, None)  # killed; otherwise a zombie
        run.waits.pop(leaving, None)


def check_bound(run: Run) -> None:
    """No member computes a step that is more than the bound ahead of the slowest member's."""
    for shard in run.shards:
        if shard.config.consistency is Consistency.SSP:
            assert shard.published
            for worker in set(shard.members.workers) & run.computing.keys():
                if worker in run.lives:
                    assert run.computing[worker] - shard.published.slowest <= shard.config.staleness_bound


def alone(optimizer: Optimizer, **rules: object) -> Floats:
    """Return what a single process makes of the same batches."""
    shard = new_shard(0, 1, 1, Consistency.BSP, optimizer, **rules)
    for step in range(STEPS):
        assert shard.published
        shard.push(Push(0, step, BATCH, gradient_of(step, shard.published.values, slice(None))[0]))
    assert shard.published
    return shard.published.values.copy()


@settings(max_examples=150, deadline=None)
@given(data=st.data(), shards=st.integers(1, 3), adam=st.booleans(), clips=st.booleans())
def test_a_synchronous_run_ends_where_one_without_changes_does(
    data: st.DataObject, shards: int, adam: bool, clips: bool
) -> None:
    """Also one that is clipped, in which a step may wait for its norm."""
    optimizer: Optimizer = AdamW(0.1, weight_decay=0.1) if adam else Sgd(0.1, momentum=0.9)
    norm = 0.3 if clips else 0.0
    run = new_run(shards, Consistency.BSP, optimizer, maximum_gradient_norm=norm)

    play(run, data)

    assert [shard.published.version for shard in run.shards if shard.published] == [STEPS] * shards
    expected = alone(optimizer, maximum_gradient_norm=norm)
    np.testing.assert_allclose(run.values, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), shards=st.integers(1, 2), bound=st.integers(0, 2))
def test_a_bounded_run_neither_deadlocks_nor_exceeds_its_bound(
    data: st.DataObject, shards: int, bound: int
) -> None:
    play(new_run(shards, Consistency.SSP, Sgd(0.1), staleness_bound=bound), data)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shards=st.integers(1, 2))
def test_an_asynchronous_run_ends(data: st.DataObject, shards: int) -> None:
    play(new_run(shards, Consistency.ASYNC, Sgd(0.1)), data)
