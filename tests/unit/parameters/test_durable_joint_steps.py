"""Steps that wait for norms of all shards, which logs and replicas have: pushes, norms, kills, failovers in any order."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.errors import DataLoss
from headrace_optimizers.config import Lamb, Optimizer, Sgd
from headrace_parameters.core.config import Consistency, Norms, StoreConfig
from headrace_parameters.core.contents import Contents
from headrace_parameters.core.joint import StepNorms
from headrace_parameters.core.kinds import Change, make
from headrace_parameters.core.members import MembersChange
from headrace_parameters.core.record import Sealed
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.journal.recovery import recover
from tests.unit.parameters.journal_files import LAYOUT, JournaledShard, config, gradient

WORKERS = SHARDS = range(2)


def joint_config(index: int, optimizer: Optimizer) -> StoreConfig:
    clipped = config(Consistency.BSP, optimizer, maximum_gradient_norm=0.5, shard_index=index, shard_count=2)
    assert clipped.joint_norms
    return clipped


def push_to(shard: Shard, step: int, worker: int) -> Push:
    (held,) = shard.held(LAYOUT)
    part = gradient(step, worker)[held.start : held.stop].copy()
    return Push(worker, step, 1.0 + worker, part, shard.members.generation)


def same(one: Shard, other: Shard) -> bool:
    """Tell whether two shards hold, and answer, the same to the bit."""
    assert one.published
    assert other.published
    states = [
        {"values": shard.state().values} | dict(shard.state().optimizer_state) for shard in (one, other)
    ]
    return (
        one.published.version == other.published.version
        and one.between_steps == other.between_steps
        and one.measured == other.measured
        and one.members == other.members
        and all(tensor.equal(states[1][name]) for name, tensor in states[0].items())
    )


class Pair:
    """A shard in a process, its replica in another one, and what a shard would be that never died."""

    def __init__(self, folder: Path, settings: StoreConfig) -> None:
        self._folder, self._count = folder, 0
        self.primary = self._process(settings)
        self.primary.initialize()
        self.ideal = Shard(settings)
        self.ideal.restore(self.primary.shard.state())
        self.replica: JournaledShard | None = None
        self.follow()

    def _process(self, settings: StoreConfig) -> JournaledShard:
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir(parents=True)
        return JournaledShard(folder, settings)

    @property
    def version(self) -> int:
        assert self.ideal.published
        return self.ideal.published.version

    def make(self, change: Change) -> bool:
        """Make a change, at the replica from the bytes that travel."""
        header, payload = Sealed.of(change).encode(0, 0)
        taken = self.primary.make(change)
        assert taken == make(Contents(self.ideal), change)
        if taken and self.replica:
            generation = self.replica.shard.members.generation
            copied = memoryview(bytearray(payload))
            assert self.replica.make(Sealed.received(header, copied, generation, summed=True).change)
        return taken

    def follow(self) -> None:
        """Give the primary a replica, which begins with all it has."""
        self.replica = self._process(self.primary.shard.config)
        self.replica.shard.restore(self.primary.shard.state())
        self.replica.journal.rebase(self.replica.shard.state())

    def fail_over(self) -> None:
        assert self.replica
        self.primary.journal.close()
        self.primary, self.replica = self.replica, None

    def close(self) -> None:
        self.primary.journal.close()
        if self.replica:
            self.replica.journal.close()


class JointSteps(RuleBasedStateMachine):
    """Any worker may do its part, or another's, or die before it: each rule is one call that reached one shard."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.pairs: list[Pair] = []
        self.totals: dict[tuple[int, Norms], tuple[float, ...]] = {}
        self.told: list[StepNorms] = []

    def teardown(self) -> None:
        self.stack.close()

    @initialize(optimizer=st.sampled_from([Sgd(0.1, momentum=0.9), Lamb(0.1)]))
    def begin(self, optimizer: Optimizer) -> None:
        folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.pairs = [Pair(folder / str(index), joint_config(index, optimizer)) for index in SHARDS]
        for pair in self.pairs:
            self.stack.callback(pair.close)

    @property
    def step(self) -> int:
        """The step that workers are at: they go on when all shards have applied it."""
        return min(pair.version for pair in self.pairs)

    @rule(worker=st.sampled_from(WORKERS), index=st.sampled_from(SHARDS))
    def push(self, worker: int, index: int) -> None:
        pair = self.pairs[index]
        pair.make(push_to(pair.ideal, self.step, worker))

    @rule()
    def push_all(self) -> None:
        """Do in one go what the machine would seldom find."""
        for worker in WORKERS:
            for index in SHARDS:
                self.push(worker, index)

    @rule(index=st.sampled_from(SHARDS), norms=st.sampled_from(Norms))
    def tell(self, index: int, norms: Norms) -> None:
        """Add up what the shards answer, and tell one of them, if all have an answer."""
        found = [pair.primary.shard.measured.get(norms) for pair in self.pairs]
        if not all(measured and measured.step == self.step for measured in found):
            return
        parts = [measured.squared_norms for measured in found if measured]
        total = tuple(sum(each) for each in zip(*parts, strict=True))
        assert self.totals.setdefault((self.step, norms), total) == total, "whoever asks gets the same answer"
        told = StepNorms(self.step, norms, total)
        self.pairs[index].make(told)
        self.told.append(told)

    @rule(index=st.sampled_from(SHARDS), data=st.data())
    @precondition(lambda self: any(told.step < self.step for told in self.told))
    def tell_late(self, index: int, data: st.DataObject) -> None:
        late = [told for told in self.told if told.step < self.step]
        assert not self.pairs[index].make(data.draw(st.sampled_from(late)))

    @rule(index=st.sampled_from(SHARDS))
    def change_members(self, index: int) -> None:
        """The gradients of a step that is not complete are dropped, and come again; a complete one waits on."""
        pair = self.pairs[index]
        pair.make(MembersChange(pair.ideal.members.generation + 1, tuple(WORKERS)))

    @rule(index=st.sampled_from(SHARDS))
    def kill_and_restart(self, index: int) -> None:
        self.pairs[index].primary.restart()

    @rule(index=st.sampled_from(SHARDS))
    def snapshot(self, index: int) -> None:
        if self.pairs[index].ideal.between_steps:
            self.pairs[index].primary.snapshot()

    @rule(index=st.sampled_from(SHARDS))
    def fail_over(self, index: int) -> None:
        pair = self.pairs[index]
        if pair.replica:
            pair.fail_over()
        elif pair.ideal.between_steps:
            pair.follow()

    @invariant()
    def every_process_has_what_one_would_have_that_never_died(self) -> None:
        for pair in self.pairs:
            assert same(pair.primary.shard, pair.ideal)
            assert pair.replica is None or same(pair.replica.shard, pair.ideal)


TestJointSteps = JointSteps.TestCase
TestJointSteps.settings = settings(max_examples=25, stateful_step_count=40, deadline=None)


def held_twice(folder: Path) -> tuple[JournaledShard, list[int]]:
    """Write the log of a step that is clipped and scaled by LAMB; return where each record ends."""
    store = JournaledShard(folder, joint_config(0, Lamb(0.1)))
    store.initialize()
    changes: list[Change] = [push_to(store.shard, 0, worker) for worker in WORKERS]
    changes += [StepNorms(0, Norms.GRADIENT, (4.0,)), StepNorms(0, Norms.TENSORS, (2.0, 3.0))]
    ends = []
    for change in changes:
        assert store.make(change)
        ends.append(store.segments()[-1].stat().st_size)
    store.journal.close()
    return store, ends


@pytest.mark.parametrize("records", [3, 4])
def test_norms_cut_off_or_flipped_at_any_byte_leave_the_step_waiting_for_them(
    tmp_path: Path, records: int
) -> None:
    """The worker that told them was not answered, and tells them again."""
    store, ends = held_twice(tmp_path)
    segment = store.segments()[-1]
    whole = segment.read_bytes()[: ends[records - 1]]
    begin = ends[records - 2]
    for place in range(begin, len(whole)):
        for damaged in (whole[:place], whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]):
            segment.write_bytes(damaged)
            found = recover(tmp_path, store.shard.config)
            assert found.changes == records - 1
            assert not found.shard.between_steps
            assert (Norms.TENSORS in found.shard.measured) == (records == 4)


def test_norms_flipped_at_any_byte_before_the_last_record_are_refused(tmp_path: Path) -> None:
    store, ends = held_twice(tmp_path)
    segment = store.segments()[-1]
    data = segment.read_bytes()
    for place in range(ends[1], ends[2]):
        segment.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DataLoss, match="cannot be recovered"):
            recover(tmp_path, store.shard.config)


def test_the_norms_of_the_last_step_outlast_snapshot_and_restart(tmp_path: Path) -> None:
    """Another shard may still have to be finished with them, when the worker that began it is gone."""
    store, _ = held_twice(tmp_path)
    store.restart()
    measured = store.shard.measured
    store.snapshot()

    store.restart()

    assert store.shard.measured == measured
    assert {norms: found.step for norms, found in measured.items()} == dict.fromkeys(Norms, 0)
    assert np.isfinite(measured[Norms.TENSORS].squared_norms).all()
