"""When pushes to a table take effect."""

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from headrace.errors import InvalidArgument, NonFiniteValues, OutOfRange, QuotaExceeded, ShapeMismatch
from headrace.names import StoreName
from headrace_optimizers.config import Sgd
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowOptimizer, RowSgd, RowWiseAdagrad
from headrace_optimizers.row_initializer import Constant, Initializer, Normal, Uniform
from headrace_optimizers.schedule import Decay, Schedule
from headrace_optimizers.table_config import TableConfig, check_tables
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.members import first_members
from headrace_parameters.core.need import Need
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.shard import RowShard
from headrace_parameters.core.rows.state import TableState

TABLE = TableConfig("users", 2, Uniform(-1, 1), RowWiseAdagrad(0.1))


def store(consistency: Consistency = Consistency.BSP, workers: int = 2, **settings: int) -> StoreConfig:
    return StoreConfig(
        name=StoreName.parse("projects/default/stores/run"),
        epoch=1,
        shard_index=0,
        shard_count=1,
        worker_count=workers,
        consistency=consistency,
        optimizer=Sgd(0.1),
        **settings,  # type: ignore[arg-type]  # named by each test
    )


def shard(config: StoreConfig, table: TableConfig = TABLE) -> RowShard:
    return RowShard(config, table, lambda _: None)


def push(
    worker: int, step: int, keys: npt.ArrayLike, value: npt.ArrayLike = 1.0, samples: float = 1
) -> RowPush:
    each = np.array(keys, np.uint64)
    gradient = np.broadcast_to(np.array(value, np.float32), (each.size, 2)).copy()
    return RowPush(worker, step, samples, each, gradient)


def rows(table: RowShard, *keys: int) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    out = np.empty((len(keys), table.config.dim), np.float32)
    table.table.pull(np.array(keys, np.uint64), out)
    return out


@pytest.mark.parametrize("optimizer", [RowSgd(0.1), RowWiseAdagrad(0.1), RowAdagrad(0.1)])
def test_bsp_with_three_workers_is_one_worker_with_the_whole_batch(optimizer: object) -> None:
    """Each worker's gradient is of its mean loss; the batch's is their mean weighted by samples, key by key."""
    table = replace(TABLE, optimizer=optimizer)  # type: ignore[arg-type]  # one of them
    together, alone = shard(store(workers=3), table), shard(store(workers=1), table)
    generator = np.random.default_rng(0)

    for step in range(8):
        samples = [3.0, 1.0, 0.0 if step % 2 else 4.0]
        parts = [generator.integers(0, 6, size) for size in (5, 3, 4)]
        gradients = [generator.normal(size=(part.size, 2)).astype(np.float32) for part in parts]
        for worker in (2, 0, 1):
            together.push(push(worker, step, parts[worker], gradients[worker], samples[worker]))
        weighted = [
            gradient * weight / sum(samples) for gradient, weight in zip(gradients, samples, strict=True)
        ]
        alone.push(push(0, step, np.concatenate(parts), np.concatenate(weighted), 8))

    assert np.allclose(rows(together, *range(6)), rows(alone, *range(6)), rtol=1e-6, atol=1e-6)


def test_bsp_takes_effect_when_all_workers_have_pushed_the_step_in_whatever_order() -> None:
    first, other = shard(store()), shard(store())
    before = rows(first, 1, 2)

    assert first.push(push(1, 0, [1, 2], 0.3))
    assert np.array_equal(rows(first, 1, 2), before)
    assert first.turns.missing_workers(Need(version=1)) == [0]
    assert first.push(push(0, 0, [2], 0.7))

    other.push(push(0, 0, [2], 0.7))
    other.push(push(1, 0, [1, 2], 0.3))
    assert first.turns.progress.version == 1
    assert not np.isclose(rows(first, 1, 2), before).any()
    assert np.array_equal(rows(first, 1, 2), rows(other, 1, 2))


def test_a_push_sent_twice_is_applied_once() -> None:
    table = shard(store(Consistency.ASYNC))

    assert table.push(push(0, 3, [1]))
    after = rows(table, 1)
    assert not table.push(push(0, 3, [1]))
    assert not table.push(push(0, 2, [1]))
    assert np.array_equal(rows(table, 1), after)


def test_a_push_without_keys_completes_a_step() -> None:
    table = shard(store())

    table.push(push(0, 0, [7]))
    table.push(push(1, 0, []))

    assert table.turns.progress.version == 1
    assert table.table.rows == 1


def test_samples_of_zero_apply_nothing_but_advance_the_version() -> None:
    table = shard(store())

    table.push(push(0, 0, [7], samples=0))
    table.push(push(1, 0, [8], samples=0))

    assert (table.turns.progress.version, table.table.rows) == (1, 0)


def test_backup_workers_are_not_waited_for_and_their_late_pushes_have_no_effect() -> None:
    table = shard(store(workers=3, backup_workers=1))

    table.push(push(0, 0, [1]))
    table.push(push(2, 0, [1]))
    assert table.turns.progress.version == 1
    assert not table.push(push(1, 0, [1]))
    assert table.turns.next_step(1) == 1
    assert table.turns.progress.staleness(1) == 1


def test_ssp_keeps_workers_within_the_bound() -> None:
    table = shard(store(Consistency.SSP, staleness_bound=1))

    table.push(push(0, 0, [1]))
    table.push(push(0, 1, [1]))
    with pytest.raises(OutOfRange, match="more than 1 ahead"):
        table.push(push(0, 2, [1]))
    assert table.turns.need_for(2) == Need(clock=1)
    assert table.turns.missing_workers(Need(clock=1)) == [1]
    assert table.turns.progress.staleness(2) == 2


def test_a_step_ahead_of_the_version_is_refused() -> None:
    with pytest.raises(OutOfRange, match="pull, then push step 0"):
        shard(store()).push(push(0, 1, [1]))


def test_a_worker_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="workers 0 to 1"):
        shard(store()).push(push(2, 0, [1]))


def test_a_gradient_that_is_not_finite_is_refused_and_names_the_key() -> None:
    with pytest.raises(NonFiniteValues, match="key 9") as error:
        push(0, 0, [4, 9], [[0.0, 1.0], [float("nan"), 1.0]])
    assert error.value.metadata == {"key": "9"}


def test_large_finite_gradients_whose_sum_overflows_are_taken() -> None:
    push(0, 0, [4, 9], 3e38)


def test_rows_of_another_length_are_refused() -> None:
    wide = RowPush(0, 0, 1, np.array([1], np.uint64), np.ones((1, 3), np.float32))

    with pytest.raises(ShapeMismatch, match="3 values a row"):
        shard(store()).push(wide)


def test_fewer_gradients_than_keys_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match="one row for each"):
        RowPush(0, 0, 1, np.array([1, 2], np.uint64), np.ones((1, 2), np.float32))


def test_a_step_that_finds_no_room_is_not_taken_and_can_be_pushed_again() -> None:
    full = True

    def reserve(_: int) -> None:
        if full:
            raise QuotaExceeded("no room")

    table, roomy = RowShard(store(), TABLE, reserve), shard(store())
    for target in (table, roomy):
        target.push(push(0, 0, [1], 0.3, samples=3))
    with pytest.raises(QuotaExceeded):
        table.push(push(1, 0, [2]))
    assert (table.turns.progress.version, table.table.rows) == (0, 0)

    full = False
    for target in (table, roomy):
        assert target.push(push(1, 0, [2]))
    assert np.array_equal(rows(table, 1, 2), rows(roomy, 1, 2))


def test_the_learning_rate_follows_the_schedule_by_steps() -> None:
    halved = replace(
        TABLE,
        initializer=Constant(0),
        optimizer=RowSgd(1.0),
        schedule=Schedule(Decay.STEP, decay_steps=1, decay_factor=0.5),
    )
    table = shard(store(Consistency.ASYNC), halved)

    for step in range(2):
        table.push(push(0, step, [1]))
        table.push(push(1, step, [1]))

    assert rows(table, 1).tolist() == [[-3.0, -3.0]]  # 1 + 1, then a half + a half


def test_a_restored_table_goes_on_as_the_saved_one_does() -> None:
    saved = shard(store())
    for step in range(3):
        saved.push(push(0, step, [1, step]))
        saved.push(push(1, step, [(1 << 64) - 1]))
    tensors, facts = saved.state().encode()

    restored = shard(store())
    restored.restore(TableState.decode(tensors, facts), first_members(2))

    for table in (saved, restored):
        assert not table.push(push(0, 2, [1]))
        table.push(push(0, 3, [1, 50]))
        table.push(push(1, 3, [2]))
    keys = 0, 1, 2, 50, (1 << 64) - 1
    assert np.array_equal(rows(restored, *keys), rows(saved, *keys))
    assert restored.turns.progress == saved.turns.progress


def test_members_that_compute_a_step_again_have_the_rows_it_began_with() -> None:
    table = shard(store(workers=1))
    table.push(push(0, 0, [1]))
    before = rows(table, 1, 2)
    table.push(push(0, 1, [1, 2]))

    again = np.empty_like(before)
    table.table.pull(np.array([1, 2], np.uint64), again, table.former_for(1))

    assert np.array_equal(again, before)
    assert table.former_for(2) is None


@pytest.mark.parametrize("optimizer", [RowSgd(0.1), RowWiseAdagrad(0.1), RowAdagrad(0.1, 0.5), RowAdam(0.1)])
@pytest.mark.parametrize("initializer", [Constant(1.0), Uniform(-1, 1, seed=2), Normal(0, 1, seed=3)])
def test_a_state_tells_what_the_table_was_declared_as(
    optimizer: RowOptimizer, initializer: Initializer
) -> None:
    declared = TableConfig(
        "a",
        2,
        initializer,
        optimizer,
        Schedule(Decay.COSINE, 3, 9, 0.5),
        max_rows=7,
        max_idle_steps=8,
        max_bytes=1 << 20,
    )
    tensors, facts = shard(store(), declared).state().encode()

    assert TableState.decode(tensors, json.loads(json.dumps(facts))).declaration == declared


def test_a_state_of_another_optimizer_is_refused() -> None:
    state = shard(store()).state()

    with pytest.raises(InvalidArgument, match="RowSgd"):
        shard(store(), replace(TABLE, optimizer=RowSgd(1))).restore(state, first_members(2))


@pytest.mark.parametrize("broken", ["keys", "values", "state", "touched"])
def test_a_damaged_state_is_refused(broken: str) -> None:
    saved = shard(store(Consistency.ASYNC))
    saved.push(push(0, 0, [1, 2]))
    tensors, facts = saved.state().encode()

    with pytest.raises(InvalidArgument, match="damaged"):
        TableState.decode({**tensors, broken: tensors[broken][:1]}, facts)
    with pytest.raises(InvalidArgument, match="damaged"):
        TableState.decode({name: tensor for name, tensor in tensors.items() if name != broken}, facts)


def test_a_table_that_is_declared_twice_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="declared twice"):
        check_tables((TABLE, replace(TABLE, dim=3)))
