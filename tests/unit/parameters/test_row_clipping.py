"""A table's complete step in a store that clips: it waits, changes nothing meanwhile, and is applied with one weight."""

from dataclasses import replace

import numpy as np
import pytest

from headrace.errors import MembersChanged, QuotaExceeded
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_optimizers.config import Sgd
from headrace_optimizers.row_config import RowSgd
from headrace_optimizers.row_initializer import Constant
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.config import Consistency, Norms, StoreConfig
from headrace_parameters.core.exchange import Push
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.rows.push import RowPush
from headrace_parameters.core.rows.shard import RowShard
from headrace_parameters.core.shard import Shard

STORE = StoreConfig(
    StoreName("default", "run"), 1, 0, 1, 2, Consistency.BSP, Sgd(1.0), maximum_gradient_norm=1.0
)
TABLE = TableConfig("users", 2, Constant(0.0), RowSgd(1.0))
LAYOUT = FlatLayout((TensorSpec("w", (4,)),))


def table(config: StoreConfig = STORE, **settings: int) -> RowShard:
    return RowShard(config, replace(TABLE, **settings), lambda _: None)  # type: ignore[arg-type]  # named by each test


def push(worker: int, *keys: int, step: int = 0, generation: int = 0) -> RowPush:
    gradient = np.ones((len(keys), 2), np.float32)
    return RowPush(worker, step, 1.0, np.array(keys, np.uint64), gradient, generation)


def row(shard: RowShard, key: int) -> list[float]:
    out = np.empty((1, 2), np.float32)
    shard.table.pull(np.array([key], np.uint64), out)
    return [float(value) for value in out[0]]


def test_a_complete_step_is_held_with_the_norm_of_the_summed_gradients() -> None:
    shard = table()
    shard.push(push(0, 7, 7))
    shard.push(push(1, 7, 8))

    assert shard.held
    assert shard.held.squared_norm == pytest.approx(
        2 * 1.5**2 + 2 * 0.5**2
    )  # means: 3/2 for key 7, 1/2 for key 8
    assert (shard.turns.progress.version, shard.table.rows, row(shard, 7)) == (0, 0, [0, 0])
    shard.finish(0.5)
    assert (shard.turns.progress.version, row(shard, 7), row(shard, 8)) == (1, [-0.75, -0.75], [-0.25, -0.25])
    assert shard.held is None


def test_a_push_for_a_step_that_is_held_comes_too_late_also_of_members_that_are_new() -> None:
    shard = table()
    for worker in (0, 1):
        assert shard.push(push(worker, 7))

    assert not shard.push(push(0, 7))
    shard.turns.change_members(1, (0, 2))
    with pytest.raises(MembersChanged):
        shard.push(push(0, 7))
    assert not shard.push(push(2, 7, generation=1))
    shard.finish(1.0)
    assert row(shard, 7) == [-1, -1]
    assert shard.push(push(2, 7, step=1, generation=1))


def test_a_step_that_is_held_is_in_no_snapshot() -> None:
    shard, restored = table(), table()
    for worker in (0, 1):
        shard.push(push(worker, 7))

    restored.restore(shard.state(), shard.turns.members)

    assert (restored.held, restored.turns.progress.version, restored.table.rows) == (None, 0, 0)
    assert restored.push(push(0, 7))


def test_room_for_rows_is_made_before_the_step_is_held() -> None:
    shard = table(max_rows=2)
    shard.push(push(0, 1, 2))

    with pytest.raises(QuotaExceeded):
        shard.push(push(1, 3))

    assert shard.held is None
    assert shard.push(push(1, 1))
    assert shard.held


class Rows:
    """The tables of a store: one, which is complete or not."""

    def __init__(self, norm: float | None) -> None:
        self.norm, self.weight = norm, 0.0

    def squared_norm(self) -> float | None:
        return self.norm

    def finish(self, weight: float) -> None:
        self.weight = weight


def dense(rows: Rows, **settings: int) -> Shard:
    shard = Shard(replace(STORE, worker_count=1, **settings))  # type: ignore[arg-type]  # named by each test
    shard.initialize(LAYOUT, np.zeros(4 // settings.get("shard_count", 1), np.float32))
    shard.clip_with(rows)
    return shard


def threes(count: int) -> Floats:
    return np.full(count, 3, np.float32)


def test_one_shard_clips_dense_values_and_rows_as_soon_as_both_are_there() -> None:
    rows = Rows(norm=None)
    shard = dense(rows)
    shard.push(Push(0, 0, 1.0, threes(4)))
    assert shard.awaits_rows
    assert not shard.take_rows()

    rows.norm = 64.0
    assert shard.take_rows()

    assert shard.published
    assert shard.published.version == 1
    assert rows.weight == pytest.approx(0.1)  # the norm is sqrt(36 + 64)
    np.testing.assert_allclose(shard.published.values, -0.3, rtol=1e-5)


def test_a_shard_of_several_tells_the_norm_of_both_and_waits_for_that_of_all() -> None:
    rows = Rows(norm=64.0)
    shard = dense(rows, shard_count=2)
    shard.push(Push(0, 0, 1.0, threes(2)))

    assert list(shard.measured[Norms.GRADIENT].squared_norms) == pytest.approx([18 + 64])
    assert (shard.published and shard.published.version, rows.weight) == (0, 0.0)
    shard.finish_step(StepNorms(0, Norms.GRADIENT, (400.0,)))
    assert rows.weight == pytest.approx(0.05)
