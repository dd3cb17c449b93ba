"""Dense pushes and pushes of rows, snapshots, changes of members and crashes in any order: a durable store is one that never died."""

import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.errors import HeadraceError, MembersChanged
from headrace_optimizers.row_config import RowAdagrad, RowAdam, RowSgd, RowWiseAdagrad
from headrace_parameters.core.config import Consistency
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.rows.push import RowPush, TablePush
from headrace_parameters.live import LiveStore
from tests.unit.parameters.journal_files import push_of
from tests.unit.parameters.row_journal import KeptStore, durable, in_memory, row_push, same_rows, table

WORKERS = st.integers(0, 2)
AHEAD = st.integers(-1, 1)


class Crashes(RuleBasedStateMachine):
    """The same is done to a durable store and to one in memory; only the first one dies."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.generation = 0

    def teardown(self) -> None:
        if self.store.live.journal:
            self.store.live.journal.close()
        self._folder.cleanup()

    @initialize(
        consistency=st.sampled_from(Consistency),
        optimizer=st.sampled_from([RowSgd(0.1), RowWiseAdagrad(0.1), RowAdagrad(0.1), RowAdam(0.1)]),
        max_rows=st.sampled_from([0, 10]),
        max_idle_steps=st.sampled_from([0, 3]),
    )
    def begin(
        self,
        consistency: Consistency,
        optimizer: RowSgd | RowWiseAdagrad | RowAdagrad | RowAdam,
        max_rows: int,
        max_idle_steps: int,
    ) -> None:
        config = durable(consistency)
        declared = table(optimizer, max_rows=max_rows, max_idle_steps=max_idle_steps)
        self.store, self.model = (
            KeptStore(Path(self._folder.name), config, declared),
            in_memory(config, declared),
        )

    @property
    def live(self) -> LiveStore:
        return self.store.live

    @rule(worker=WORKERS, ahead=AHEAD)
    def push_rows(self, worker: int, ahead: int) -> None:
        """Push to the table: the step that comes next, one that is known, or one that comes too early."""
        push = self._row_push(worker, ahead)
        assert self._done(self.live, push) == self._done(self.model, push)

    def _row_push(self, worker: int, ahead: int = 0) -> RowPush:
        step = max(0, self.model.tables["users"].next_step(worker) + ahead)
        return replace(row_push(step, worker), generation=self.generation)

    @staticmethod
    def _done(store: LiveStore, push: RowPush) -> object:
        try:
            return store.push_rows(store.tables["users"], push)
        except HeadraceError as error:
            return type(error)

    @rule(worker=WORKERS)
    def push(self, worker: int) -> None:
        """Push a dense gradient."""
        assert self.model.published
        step = self.model.next_step(worker, self.model.published)
        push = replace(push_of(step, worker), generation=self.generation)
        for store in (self.live, self.model):
            with suppress(HeadraceError):
                store.push(push)

    @rule(workers=st.sets(WORKERS, min_size=1))
    def change_members(self, workers: set[int]) -> None:
        self.generation += 1
        for store in (self.live, self.model):
            with suppress(MembersChanged):
                store.change_members(self.generation, tuple(sorted(workers)))

    @precondition(lambda self: self.live.between_steps)
    @rule()
    def snapshot(self) -> None:
        self.store.snapshot()

    @rule()
    def die(self) -> None:
        self.store.die()

    @rule(worker=WORKERS, part=st.floats(0, 1))
    def die_in_the_midst_of_a_record(self, worker: int, part: float) -> None:
        """Nobody was told of it: it is there whole, or not at all."""
        push, users = self._row_push(worker), self.model.tables["users"]
        try:
            taken = users.takes(push)
        except HeadraceError:
            taken = False
        journal = self.live.journal
        assert journal
        record = b"".join(
            Sealed.of(TablePush("users", push)).encode(journal._sequence, self.store.settings.epoch)
        )
        written = record[: int(part * len(record))] if taken else b""
        with max(self.store.folder.glob("log-*")).open("r+b") as segment:
            segment.seek(journal._log._end)
            segment.write(written)
        self.store.die()
        if taken and written == record:
            self.model.push_rows(users, push)

    @invariant()
    def it_is_as_if_nothing_had_been(self) -> None:
        assert same_rows(self.live, self.model)


TestCrashes = Crashes.TestCase
TestCrashes.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
