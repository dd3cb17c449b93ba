"""The shard against a plain model of the same rules, under whatever order of calls Hypothesis finds."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from headrace.errors import NonFiniteValues, OutOfRange
from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace_optimizers.config import Sgd
from headrace_parameters.core.config import Consistency, StoreConfig
from headrace_parameters.core.shard import Push, Shard
from headrace_parameters.core.state import ShardState

LAYOUT = FlatLayout((TensorSpec("a", (2, 3)), TensorSpec("b", ())))
WORKERS = st.integers(0, 2)
STEPS = st.integers(0, 6)
SAMPLES = st.sampled_from([0.0, 1.0, 3.0])
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 0.01

Vector = npt.NDArray[np.float64]


class Model:
    """What a store must do, in float64 and without a thought of speed."""

    def __init__(self, consistency: Consistency, workers: int) -> None:
        self.consistency, self.workers = consistency, workers
        self.values, self.velocity = np.zeros(LAYOUT.size), np.zeros(LAYOUT.size)
        self.version = 0
        self.seen: set[tuple[int, int]] = set()
        self.pending: dict[int, tuple[Vector, float]] = {}

    def copy(self) -> "Model":
        twin = Model(self.consistency, self.workers)
        twin.values, twin.velocity = self.values, self.velocity
        twin.version, twin.seen = self.version, set(self.seen)
        return twin

    def push(self, worker: int, step: int, samples: float, gradient: Vector) -> bool:
        last = max((seen for who, seen in self.seen if who == worker), default=-1)
        late = step < self.version if self.consistency is Consistency.BSP else step <= last
        if late or worker in self.pending:
            return False
        self.pending[worker] = gradient, samples
        self.seen.add((worker, step))
        if self.consistency is Consistency.ASYNC or len(self.pending) == self.workers:
            self.apply(self.pending)
            self.pending = {}
        return True

    def apply(self, pushes: Mapping[int, tuple[Vector, float]]) -> None:
        total = sum(samples for _, samples in pushes.values())
        if total:
            mean = sum(gradient * samples for gradient, samples in pushes.values()) / total
            self.velocity = MOMENTUM * self.velocity + mean + WEIGHT_DECAY * self.values
            self.values = self.values - LEARNING_RATE * self.velocity
        self.version += 1


class StoreMachine(RuleBasedStateMachine):
    @initialize(consistency=st.sampled_from(Consistency), workers=st.integers(1, 3))
    def make(self, consistency: Consistency, workers: int) -> None:
        self.model = Model(consistency, workers)
        self.config = StoreConfig(
            name=StoreName("default", "run"),
            epoch=1,
            shard_index=0,
            shard_count=1,
            worker_count=workers,
            consistency=consistency,
            optimizer=Sgd(LEARNING_RATE, MOMENTUM, WEIGHT_DECAY),
        )
        self.shard = Shard(self.config)
        self.shard.initialize(LAYOUT, np.zeros(LAYOUT.size, np.float32))
        self.saved: tuple[ShardState, Model] | None = None

    @rule(worker=WORKERS, step=STEPS, samples=SAMPLES, seed=st.integers(0, 9))
    def push(self, worker: int, step: int, samples: float, seed: int) -> None:
        """Mostly duplicates, late ones and ones out of order."""
        self._push(worker % self.model.workers, step, samples, seed)

    @rule(worker=WORKERS, samples=SAMPLES, seed=st.integers(0, 9))
    def push_in_order(self, worker: int, samples: float, seed: int) -> None:
        worker %= self.model.workers
        self._push(worker, self.model.version, samples, seed)

    def _push(self, worker: int, step: int, samples: float, seed: int) -> None:
        gradient = np.random.default_rng(seed).normal(size=LAYOUT.size).astype(np.float32)
        if self.model.consistency is Consistency.BSP and step > self.model.version:
            with pytest.raises(OutOfRange):
                self.shard.push(Push(worker, step, samples, gradient))
            return
        expected = self.model.push(worker, step, samples, gradient.astype(np.float64))
        assert self.shard.push(Push(worker, step, samples, gradient)) == expected

    @rule(worker=WORKERS)
    def push_what_is_not_finite(self, worker: int) -> None:
        gradient = np.full(LAYOUT.size, np.inf, np.float32)
        with pytest.raises(NonFiniteValues):
            self.shard.push(Push(worker % self.model.workers, self.model.version, 1, gradient))

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
            self.shard = Shard(self.config)
        self.shard.restore(state)
        self.model = model.copy()

    @invariant()
    def agrees_with_the_model(self) -> None:
        assert self.shard.published
        assert self.shard.published.version == self.model.version
        np.testing.assert_allclose(self.shard.published.values, self.model.values, rtol=1e-5, atol=1e-6)
        if self.model.consistency is Consistency.BSP:
            missing = [worker for worker in range(self.model.workers) if worker not in self.model.pending]
            assert self.shard.missing_workers == missing


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestStore = StoreMachine.TestCase
