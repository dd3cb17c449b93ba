"""A table against a dictionary of rows, under whatever order of calls Hypothesis finds."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.errors import InvalidArgument, QuotaExceeded
from headrace.parameters.keys import Keys
from headrace_optimizers.row_config import RowOptimizer, RowSgd, RowWiseAdagrad
from headrace_optimizers.row_initializer import Constant, Uniform, first_rows
from headrace_optimizers.table_config import TableConfig
from headrace_parameters.core.rows.memory import needed_bytes
from headrace_parameters.core.rows.table import RowTable

DIM = 3
CONFIG = TableConfig("users", DIM, Uniform(-1, 1, seed=5), RowWiseAdagrad(0.1, 0.1, 1e-6))
KEY_LISTS = st.lists(st.integers(0, 40) | st.just((1 << 64) - 1), min_size=1, max_size=24)


class Model:
    """What a table must do, row by row, in float64 and without a thought of speed."""

    def __init__(self, config: TableConfig) -> None:
        self.config = config
        self.rows: dict[int, np.ndarray[tuple[int], np.dtype[np.float64]]] = {}
        self.sums: dict[int, float] = {}
        self.touched: dict[int, int] = {}

    def row(self, key: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        first = first_rows(self.config.initializer, self.config.name, np.array([key], np.uint64), DIM)[0]
        row = self.rows.get(key)
        return first.astype(np.float64) if row is None else row

    def make_room(self, keys: set[int]) -> None:
        """Evict what was touched least recently, of these the smallest keys: a sixteenth of the rows or more."""
        bound, new = self.config.max_rows, len(keys - self.rows.keys())
        excess = len(self.rows) + new - bound
        if not bound or not new or excess <= 0:
            return
        if len(keys) > bound:
            raise QuotaExceeded("too many")
        others = sorted(self.rows.keys() - keys, key=lambda key: (self.touched[key], key))
        self.evict(others[: max(excess, bound // 16)])

    def evict(self, keys: list[int]) -> None:
        for key in keys:
            del self.rows[key], self.sums[key], self.touched[key]

    def push(
        self, keys: list[int], gradients: "np.ndarray[tuple[int, int], np.dtype[np.float32]]", step: int
    ) -> None:
        self.make_room(set(keys))
        for key in set(keys):
            mine = [row for other, row in zip(keys, gradients, strict=True) if other == key]
            gradient = np.sum(np.array(mine, np.float64), axis=0)
            self.sums[key] = self.sums.get(key, 0.1) + float((gradient**2).mean())
            self.rows[key] = self.row(key) - 0.1 * gradient / (np.sqrt(self.sums[key]) + 1e-6)
            self.touched[key] = step
        idle = self.config.max_idle_steps
        if idle and step % max(1, idle // 8) == 0:
            self.evict([key for key, touched in self.touched.items() if touched < step - idle])


class Tables(RuleBasedStateMachine):
    """Rows are pushed and pulled, evicted by number and by age, saved and loaded."""

    @initialize(max_rows=st.sampled_from([0, 8, 20]), max_idle_steps=st.sampled_from([0, 2, 20]))
    def make(self, max_rows: int, max_idle_steps: int) -> None:
        self.config = replace(CONFIG, max_rows=max_rows, max_idle_steps=max_idle_steps)
        self.table, self.model = RowTable(self.config), Model(self.config)
        self.step = self.updates = 0

    @rule(keys=KEY_LISTS, seed=st.integers(0, 99), steps=st.integers(0, 3))
    def push(self, keys: list[int], seed: int, steps: int) -> None:
        self.step += steps
        gradients = np.random.default_rng(seed).normal(size=(len(keys), DIM)).astype(np.float32)
        try:
            self.model.push(keys, gradients, self.step)
        except QuotaExceeded:
            with pytest.raises(QuotaExceeded, match="max_rows"):
                self.apply(keys, gradients)
            return
        self.apply(keys, gradients)

    def apply(self, keys: list[int], gradients: "np.ndarray[tuple[int, int], np.dtype[np.float32]]") -> None:
        self.table.apply(np.array(keys, np.uint64), gradients, update=self.updates, step=self.step)
        self.updates += 1

    @rule(keys=KEY_LISTS)
    def pull(self, keys: list[int]) -> None:
        before = self.table.rows
        expected = [self.model.row(key) for key in keys]
        assert np.allclose(pulled(self.table, keys), expected, rtol=1e-4, atol=1e-5)
        assert self.table.rows == before

    @rule()
    def move_to_another_table(self) -> None:
        moved = RowTable(self.config)
        moved.load(self.table.save())
        self.table = moved

    @invariant()
    def the_rows_are_those_of_the_model(self) -> None:
        saved = self.table.save()
        assert saved.keys.tolist() == sorted(self.model.rows)
        assert saved.touched.tolist() == [self.model.touched[key] for key in sorted(self.model.rows)]
        assert self.table.rows == len(self.model.rows)
        assert self.table.counts.created - self.table.counts.evicted <= self.table.rows


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def keys_of(*keys: int) -> Keys:
    return np.array(keys, np.uint64)


def pulled(table: RowTable, keys: list[int]) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    out = np.empty((len(keys), table.config.dim), np.float32)
    table.pull(np.array(keys, np.uint64), out)
    return out


def push_ones(table: RowTable, keys: Keys, step: int = 0) -> None:
    table.apply(keys, np.ones((keys.size, table.config.dim), np.float32), update=0, step=step)


def test_a_row_that_was_evicted_begins_anew_with_its_first_values_and_state() -> None:
    table = RowTable(replace(CONFIG, max_rows=2))
    push_ones(table, keys_of(1))
    after_one_push = pulled(table, [1])
    push_ones(table, keys_of(2), step=1)
    push_ones(table, keys_of(3), step=2)

    assert np.array_equal(pulled(table, [1]), first_rows(CONFIG.initializer, "users", keys_of(1), DIM))
    push_ones(table, keys_of(1), step=3)
    assert np.array_equal(pulled(table, [1]), after_one_push)
    assert (table.counts.created, table.counts.evicted) == (4, 2)


def test_each_shard_keeps_its_part_of_max_rows() -> None:
    table = RowTable(replace(CONFIG, max_rows=10), shard_count=3)

    push_ones(table, np.arange(4, dtype=np.uint64))
    with pytest.raises(QuotaExceeded, match="touches 5 rows"):
        push_ones(table, np.arange(5, dtype=np.uint64))


def test_a_push_beyond_max_bytes_is_refused_and_nothing_is_applied() -> None:
    table = RowTable(replace(CONFIG, max_bytes=needed_bytes(DIM, 1, 5)))
    push_ones(table, np.arange(5, dtype=np.uint64))
    before = table.save()

    with pytest.raises(QuotaExceeded, match="max_bytes"):
        push_ones(table, np.arange(4, 7, dtype=np.uint64))

    assert np.array_equal(table.save().values, before.values)
    assert np.array_equal(table.save().state, before.state)
    push_ones(table, np.arange(5, dtype=np.uint64))  # rows that are there may change


def test_a_push_for_which_the_process_has_no_memory_is_refused_and_nothing_is_applied() -> None:
    asked: list[int] = []

    def reserve(size_bytes: int) -> None:
        asked.append(size_bytes)
        if size_bytes > needed_bytes(DIM, 1, 5):
            raise QuotaExceeded("no")

    table = RowTable(CONFIG, reserve=reserve)
    push_ones(table, np.arange(5, dtype=np.uint64))

    with pytest.raises(QuotaExceeded):
        push_ones(table, np.arange(4, 6, dtype=np.uint64))

    assert table.rows == 5
    assert asked == [needed_bytes(DIM, 1, 5), needed_bytes(DIM, 1, 6)]
    assert table.size_bytes == needed_bytes(DIM, 1, 5)


@pytest.mark.parametrize("optimizer", [RowSgd(0.1), RowWiseAdagrad(0.1)])
def test_memory_is_at_most_15_percent_more_than_rows_of_64_values_and_their_state(
    optimizer: RowOptimizer,
) -> None:
    rows = 1_000_000
    width = 0 if isinstance(optimizer, RowSgd) else 1

    assert needed_bytes(64, width, rows) <= 1.15 * 4 * (64 + width) * rows


def test_slots_of_evicted_rows_are_used_again() -> None:
    table = RowTable(replace(CONFIG, max_rows=1_000))

    for step in range(20):
        push_ones(table, np.arange(step * 700, step * 700 + 700, dtype=np.uint64), step=step)

    assert table.rows <= 1_000
    assert table.size_bytes == needed_bytes(DIM, 1, 1_000)


def test_rows_of_another_table_are_not_loaded() -> None:
    table = RowTable(CONFIG)
    push_ones(table, keys_of(1, 2))

    with pytest.raises(InvalidArgument, match="4 and 1"):
        RowTable(replace(CONFIG, dim=4)).load(table.save())
    with pytest.raises(InvalidArgument, match="3 and 0"):
        RowTable(replace(CONFIG, optimizer=RowSgd(1))).load(table.save())


def test_a_table_grows_to_many_rows_and_keeps_them_all() -> None:
    table = RowTable(TableConfig("users", DIM, Constant(0.5), RowSgd(1.0)))

    for start in range(0, 300_000, 50_000):
        push_ones(table, np.arange(start, start + 50_000, dtype=np.uint64))

    assert table.rows == 300_000
    assert np.all(pulled(table, [0, 150_000, 299_999]) == -0.5)
    assert np.all(pulled(table, [300_000]) == 0.5)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "table name"),
        ({"name": "a b"}, "table name"),
        ({"dim": 0}, "tables.dim"),
        ({"max_rows": -1}, "tables.max_rows"),
        ({"max_idle_steps": -1}, "tables.max_idle_steps"),
    ],
)
def test_a_table_that_cannot_be_is_refused(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument, match=field):
        replace(CONFIG, **change)  # type: ignore[arg-type]  # what a caller may send


@pytest.mark.parametrize("limits", [{}, {"max_rows": 12}, {"max_idle_steps": 3}])
@given(steps=st.lists(st.lists(st.integers(0, 15), max_size=6), min_size=1, max_size=12))
def test_the_former_rows_are_those_before_the_last_update(
    limits: dict[str, int], steps: list[list[int]]
) -> None:
    table, before = RowTable(replace(CONFIG, **limits), remembers=True), np.zeros((16, DIM), np.float32)  # type: ignore[arg-type]  # numbers
    keys = np.arange(16, dtype=np.uint64)
    for step, touched in enumerate(steps):
        table.pull(keys, before)
        push_ones(table, np.array(touched, np.uint64), step)

    former = np.empty_like(before)
    table.pull(keys, former, table.former)

    assert np.array_equal(former, before)
