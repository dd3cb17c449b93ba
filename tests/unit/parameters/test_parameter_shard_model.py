"""The shard against a plain model of the same rules, under whatever order of calls Hypothesis finds."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.errors import NonFiniteValues, OutOfRange, StaleEpoch
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace_parameters.core.config import Consistency, Sgd, StoreConfig
from headrace_parameters.core.need import Need
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.core.state import ShardState

LAYOUT = FlatLayout((TensorSpec("a", (2, 3)), TensorSpec("b", ())))
WORKERS = st.integers(0, 2)
STEPS = st.integers(0, 6)
SAMPLES = st.sampled_from([0.0, 1.0, 3.0])
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 0.01

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    consistency: Consistency
    workers: int
    bound: int = 0
    backups: int = 0


class Model:
    """What a store must do, in float64 and without a thought of speed."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.values, self.velocity = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
        self.version = 0
        self.clocks = [0] * rules.workers  # of each worker, one more than its last step that was applied
        self.pending: dict[int, tuple[Vector, float]] = {}

    def copy(self) -> "Model":
        twin = Model(self.rules)
        twin.values, twin.velocity = self.values, self.velocity
        twin.version, twin.clocks = self.version, list(self.clocks)
        return twin

    @property
    def bsp(self) -> bool:
        return self.rules.consistency is Consistency.BSP

    def is_too_early(self, worker: int, step: int) -> bool:
        if self.bsp:
            return step > self.version
        fresh = step >= self.clocks[worker]
        ssp = self.rules.consistency is Consistency.SSP
        return ssp and fresh and step > min(self.clocks) + self.rules.bound

    def push(self, worker: int, step: int, samples: float, gradient: Vector) -> bool:
        late = step < self.version or worker in self.pending if self.bsp else step < self.clocks[worker]
        if late:
            return False
        self.pending[worker] = gradient, samples
        if not self.bsp or len(self.pending) == self.rules.workers - self.rules.backups:
            self.apply(self.pending)
            for contributor in self.pending:
                self.clocks[contributor] = step + 1
            self.pending = {}
        return True

    def apply(self, pushes: Mapping[int, tuple[Vector, float]]) -> None:
        total = sum(samples for _, samples in pushes.values())
        if total:
            mean = sum(gradient * samples for gradient, samples in pushes.values()) / total
            self.velocity = MOMENTUM * self.velocity + mean + WEIGHT_DECAY * self.values
            self.values = self.values - LEARNING_RATE * self.velocity
        self.version += 1


@st.composite
def rules(draw: st.DrawFn) -> Rules:
    consistency, workers = draw(st.sampled_from(Consistency)), draw(st.integers(1, 3))
    bound = draw(st.integers(0, 2)) if consistency is Consistency.SSP else 0
    backups = draw(st.integers(0, workers - 1)) if consistency is Consistency.BSP else 0
    return Rules(consistency, workers, bound, backups)


class StoreMachine(RuleBasedStateMachine):
    @initialize(rules=rules())
    def make(self, rules: Rules) -> None:
        self.model = Model(rules)
        self.config = StoreConfig(
            name=StoreName("default", "run"),
            epoch=1,
            shard_index=0,
            shard_count=1,
            worker_count=rules.workers,
            consistency=rules.consistency,
            optimizer=Sgd(LEARNING_RATE, MOMENTUM, WEIGHT_DECAY),
            staleness_bound=rules.bound,
            backup_workers=rules.backups,
        )
        self.shard = Shard(self.config)
        self.shard.initialize(LAYOUT, np.zeros(LAYOUT.size, np.float32))
        self.saved: tuple[ShardState, Model] | None = None

    @rule(worker=WORKERS, step=STEPS, samples=SAMPLES, seed=st.integers(0, 9))
    def push(self, worker: int, step: int, samples: float, seed: int) -> None:
        """Mostly duplicates, late ones and ones out of order."""
        self._push(worker % self.model.rules.workers, step, samples, seed)

    @rule(worker=WORKERS, samples=SAMPLES, seed=st.integers(0, 9))
    def push_in_order(self, worker: int, samples: float, seed: int) -> None:
        worker %= self.model.rules.workers
        step = self.model.version if self.model.bsp else self.model.clocks[worker]
        self._push(worker, step, samples, seed)

    def _push(self, worker: int, step: int, samples: float, seed: int) -> None:
        gradient = np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32)
        if self.model.is_too_early(worker, step):
            with pytest.raises(OutOfRange):
                self.shard.push(Push(worker, step, samples, gradient))
            return
        expected = self.model.push(worker, step, samples, gradient.astype(np.float64))
        assert self.shard.push(Push(worker, step, samples, gradient)) == expected

    @rule(worker=WORKERS)
    def push_what_is_not_finite(self, worker: int) -> None:
        gradient = np.full(LAYOUT.size, np.inf, np.float32)
        with pytest.raises(NonFiniteValues):
            self.shard.push(Push(worker % self.model.rules.workers, self.model.version, 1, gradient))

    @rule()
    def save(self) -> None:
        self.saved = self.shard.state(), self.model.copy()

    @precondition(lambda self: self.saved)
    @rule(anew=st.booleans())
    def restore(self, anew: bool) -> None:
        """Into the store itself, or into one of a new epoch."""
        assert self.saved
        state, model = self.saved
        if anew:
            old, self.config = self.config, replace(self.config, epoch=self.config.epoch + 1)
            self.shard = Shard(self.config)
            with pytest.raises(StaleEpoch):
                self.shard.config.fence(old.epoch)
        self.shard.restore(state)
        self.model = model.copy()

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.shard.published
        assert self.shard.published.version == self.model.version
        np.testing.assert_allclose(self.shard.published.values, self.model.values, rtol=1e-5, atol=1e-6)
        clocks = self.model.clocks
        assert (self.shard.published.slowest, self.shard.published.furthest) == (min(clocks), max(clocks))
        if self.model.bsp:
            missing = [w for w in range(self.model.rules.workers) if w not in self.model.pending]
            assert self.shard.missing_workers(Need()) == missing

    @invariant()
    def keeps_the_bound(self) -> None:
        """The last step applied is never more than the bound ahead of the slowest worker's next."""
        if self.model.rules.consistency is Consistency.SSP:
            assert self.shard.published
            assert self.shard.published.furthest - 1 <= self.shard.published.slowest + self.model.rules.bound

    @rule(step=STEPS)
    def ask_what_a_step_may_be_computed_with(self, step: int) -> None:
        assert self.shard.published
        need = self.shard.need_for(step)
        met = need.met_by(self.shard.published.version, self.shard.published.slowest)
        if self.model.bsp:
            assert met == (self.model.version >= step)
        else:
            bounded = self.model.rules.consistency is Consistency.SSP
            assert met == (not bounded or step - min(self.model.clocks) <= self.model.rules.bound)
            assert not (bounded and met) or self.shard.published.staleness(step) <= self.model.rules.bound


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStore = StoreMachine.TestCase
