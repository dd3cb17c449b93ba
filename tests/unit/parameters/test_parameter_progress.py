"""Whole runs in any order of events: every worker gets to the end, and every gradient counts as often as it should."""

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.names import StoreName
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace_parameters.core.config import Consistency, Sgd, StoreConfig
from headrace_parameters.core.shard import Push, Shard

STEPS = 5


@dataclass
class Worker:
    """Pushes its step to all shards, one after the other, and goes on when all let it."""

    index: int
    step: int = 0
    unpushed: list[int] = field(default_factory=list)


class Cluster:
    """Workers and whole shards. Gradients are one-hot, so that the values tell which ones were applied, and how often."""

    def __init__(self, shards: int, workers: int, **rules: object) -> None:
        config = StoreConfig(
            name=StoreName("default", "run"),
            epoch=1,
            shard_index=0,
            shard_count=1,
            worker_count=workers,
            optimizer=Sgd(1.0),
            **rules,  # type: ignore[arg-type]  # each test's
        )
        self.bound = config.staleness_bound
        layout = FlatLayout((TensorSpec("applied", (STEPS, workers)),))
        self.shards = [Shard(config) for _ in range(shards)]
        for shard in self.shards:
            shard.initialize(layout, np.zeros(layout.size, np.float32))
        self.workers = [Worker(index, unpushed=list(range(shards))) for index in range(workers)]

    def runnable(self) -> list[Worker]:
        unfinished = (worker for worker in self.workers if worker.step < STEPS)
        return [worker for worker in unfinished if worker.unpushed or self._may_go_on(worker)]

    def _may_go_on(self, worker: Worker) -> bool:
        needs = [(shard.need_for(worker.step + 1), shard.published) for shard in self.shards]
        return all(held and need.met_by(held.version, held.slowest) for need, held in needs)

    def run(self, worker: Worker, twice: bool) -> None:
        if not worker.unpushed:
            self._go_on(worker)
            return
        shard = self.shards[worker.unpushed.pop()]
        gradient = np.zeros((STEPS, len(self.workers)), np.float32)
        gradient[worker.step, worker.index] = 1
        push = Push(worker.index, worker.step, 1.0, gradient.ravel())
        shard.push(push)
        if twice:
            assert not shard.push(push)

    def _go_on(self, worker: Worker) -> None:
        published = [shard.published for shard in self.shards]
        steps = [
            shard.next_step(worker.index, held)
            for shard, held in zip(self.shards, published, strict=True)
            if held
        ]
        worker.step = min(steps)
        worker.unpushed = list(range(len(self.shards)))

    def check_bound(self) -> None:
        """No worker computes a step that is more than the bound ahead of the slowest worker's."""
        if self.shards[0].config.consistency is Consistency.SSP:
            steps = [worker.step for worker in self.workers]
            for shard in self.shards:
                assert shard.published
                assert max(steps) - shard.published.slowest <= self.bound

    def applied(self, shard: Shard) -> Floats:
        """Return the weight with which each gradient was applied, shape (steps, workers)."""
        assert shard.published
        return -shard.published.values.reshape(STEPS, len(self.workers))


def run_to_the_end(cluster: Cluster, data: st.DataObject) -> None:
    while any(worker.step < STEPS for worker in cluster.workers):
        runnable = cluster.runnable()
        assert runnable, "a deadlock"
        cluster.run(data.draw(st.sampled_from(runnable)), twice=data.draw(st.booleans()))
        cluster.check_bound()


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shards=st.integers(1, 2), workers=st.integers(1, 4), bound=st.integers(0, 2))
def test_bounded_staleness_neither_deadlocks_nor_exceeds_its_bound_nor_loses_a_gradient(
    data: st.DataObject, shards: int, workers: int, bound: int
) -> None:
    cluster = Cluster(shards, workers, consistency=Consistency.SSP, staleness_bound=bound)

    run_to_the_end(cluster, data)

    for shard in cluster.shards:
        assert np.array_equal(cluster.applied(shard), np.ones((STEPS, workers)))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), shards=st.integers(1, 2), workers=st.integers(1, 4), backups=st.integers(0, 3))
def test_with_backup_workers_each_step_is_the_mean_of_so_many_gradients_and_late_ones_count_nowhere(
    data: st.DataObject, shards: int, workers: int, backups: int
) -> None:
    backups = min(backups, workers - 1)
    cluster = Cluster(shards, workers, consistency=Consistency.BSP, backup_workers=backups)

    run_to_the_end(cluster, data)

    for shard in cluster.shards:
        applied = cluster.applied(shard)
        share = np.float32(1 / (workers - backups))
        assert set(applied.ravel()) <= {np.float32(0), share}
        assert (np.count_nonzero(applied, axis=1) == workers - backups).all()
