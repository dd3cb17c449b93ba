"""A parameter process that is killed with `kill -9` again and again while workers push, and a model that knows what must be there.

Every push adds one to a place of its own, so after any kill the values say for each push how often it was applied.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks._fleet import Fleet
from benchmarks._pairs import Pair
from benchmarks._victims import START_S, STORE, Victim
from headrace.errors import Cancelled
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, Floats, TensorSpec
from headrace.parameters.operation import Operation
from headrace.parameters.tables import ShardedTables
from headrace.parameters.v1 import stores_pb2, tables_pb2

TABLE = "counts"
ROWS = tables_pb2.Table(
    name=TABLE, dim=1, optimizer=tables_pb2.RowOptimizer(sgd=tables_pb2.RowSgd(learning_rate=1))
)
OUTAGE_S = 120.0  # a push repeats through the outage for as long
_UNREACHED = 1e9  # a norm that no gradient has
_TO_LEARN = 2  # pushes, the second of which began after all that had happened before the first was answered


@dataclass(frozen=True)
class Scene:
    """What is killed.

    Args:
        slots: Places per worker: push `step` adds one at place `step % slots`.
        padding: Values that every gradient has beside, all ones: weight for the log.
        least: Acknowledged pushes of each worker between two kills, at least.
        rows: Each step pushes a row of a table first, which counts as the place of the dense push does.
        pause_s: Between two pushes of a worker: without, they take all processors while a new process starts.
        shards: With more than one, steps wait for the norm of all of the gradient; no gradient is long enough to be scaled.
    """

    durability: stores_pb2.Durability.ValueType
    consistency: stores_pb2.Consistency.ValueType = stores_pb2.CONSISTENCY_ASYNC
    workers: int = 2
    slots: int = 4096
    padding: int = 0
    least: int = 25
    snapshot_every: int = 60
    rows: bool = False
    pause_s: float = 0.0
    shards: int = 1

    @property
    def layout(self) -> FlatLayout:
        """The tensors of the store."""
        return FlatLayout((TensorSpec("w", (self.workers * self.slots + self.padding,)),))

    def gradient(self, worker: int, step: int) -> Floats:
        """Return the gradient of a push; under BSP the mean over the workers is applied, so it is as many times as large."""
        vector = np.zeros(self.layout.size, np.float32)
        vector[self.workers * self.slots :] = 1
        vector[worker * self.slots + step % self.slots] = (
            self.workers if self.consistency == stores_pb2.CONSISTENCY_BSP else 1
        )
        return vector

    def key(self, worker: int, step: int) -> int:
        """Return the key of the row that counts a push."""
        return worker * self.slots + step % self.slots

    def applied(self, values: Floats) -> Floats:
        """Return how often each push was applied, shape (workers, slots)."""
        return -values[: self.workers * self.slots].reshape(self.workers, self.slots)

    def wanted(self, counts: list[int]) -> Floats:
        """Return the same for workers that have pushed steps 0 to count - 1."""
        model = np.zeros((self.workers, self.slots), np.float32)
        for worker, count in enumerate(counts):
            np.add.at(model[worker], np.arange(count) % self.slots, 1)
        return model


class Pusher(threading.Thread):
    """A worker that pushes one step after the other, through every outage, and counts what was acknowledged."""

    def __init__(self, scene: Scene, addresses: list[str], worker: int) -> None:
        super().__init__(name=f"pusher-{worker}", daemon=True)
        self._scene, self._worker = scene, worker
        self._store = ShardedStore(addresses, STORE, epoch=1, worker=worker, timeout_s=OUTAGE_S)
        self._tables = ShardedTables(addresses, STORE, epoch=1, worker=worker, timeout_s=OUTAGE_S)
        self._news = threading.Condition()
        self._stopping = False
        self.acknowledged = 0
        self.error: Exception | None = None

    def run(self) -> None:
        """Push until `stop`; under BSP each answer comes when the step is applied."""
        bsp = self._scene.consistency == stores_pb2.CONSISTENCY_BSP
        try:
            while not self._stopping:
                gradient = self._scene.gradient(self._worker, self.acknowledged)
                if self._scene.rows:
                    key = self._scene.key(self._worker, self.acknowledged)
                    one = np.full((1, 1), gradient.max(), np.float32)
                    self._tables.push_rows(TABLE, self.acknowledged, [key], one, samples=1)
                if bsp:
                    self._store.push_pull(self.acknowledged, gradient, samples=1)
                else:
                    self._store.push(self.acknowledged, gradient, samples=1)
                with self._news:
                    self.acknowledged += 1
                    self._news.notify_all()
                time.sleep(self._scene.pause_s)
        except Cancelled:
            pass  # closed while it waited for the others of its step
        except Exception as error:  # noqa: BLE001 - the top of a thread; the round asks for it
            with self._news:
                self.error = error
                self._news.notify_all()

    def wait_for(self, count: int) -> None:
        """Wait until so many pushes were acknowledged; raise what ended the worker."""
        with self._news:
            reached = self._news.wait_for(
                lambda: self.error is not None or self.acknowledged >= count, OUTAGE_S
            )
        if self.error or not reached:
            raise AssertionError(f"worker {self._worker} stopped at {self.acknowledged}") from self.error

    def stop(self) -> None:
        """End after the push under way."""
        self._stopping = True

    def close(self) -> None:
        """End now."""
        self.stop()
        self._store.close()
        self._tables.close()
        self.join()


@dataclass(frozen=True)
class Outcome:
    """What came of some rounds.

    Args:
        acknowledged: Pushes that were answered.
        outages_s: From each kill until the store served again.
        processor_s: Processor time the new process had taken by then.
        pulls_s: From each kill until all values had been pulled.
    """

    acknowledged: int
    lost: int
    twice: int
    outages_s: list[float]
    processor_s: list[float]
    pulls_s: list[float]


@contextmanager
def running(scene: Scene, folder: Path) -> Iterator[tuple[Fleet, list[Pusher]]]:
    """Start a process, or two, for each shard, a store there, and its workers."""
    with ExitStack() as stack:
        replicated = scene.durability in (
            stores_pb2.DURABILITY_REPLICA,
            stores_pb2.DURABILITY_REPLICA_DISK,
        )
        folders = [folder / str(shard) for shard in range(scene.shards)]
        for each in folders:
            each.mkdir()
        every = scene.snapshot_every
        fleet = Fleet(
            [Pair(each, snapshot_every=every) for each in folders]
            if replicated
            else [Victim(each, snapshot_every=every) for each in folders]
        )
        stack.callback(fleet.end)
        fleet.begin(_request(scene))
        with ShardedStore(fleet.addresses, STORE, epoch=1, worker=0, timeout_s=START_S) as store:
            store.initialize(scene.layout, np.zeros(scene.layout.size, np.float32))
        pushers = [Pusher(scene, fleet.addresses, worker) for worker in range(scene.workers)]
        for pusher in pushers:
            stack.callback(pusher.close)
            pusher.start()
        yield fleet, pushers


def _request(scene: Scene) -> stores_pb2.CreateStoreRequest:
    return stores_pb2.CreateStoreRequest(
        name=STORE,
        epoch=1,
        shard_count=scene.shards,
        worker_count=scene.workers,
        consistency=scene.consistency,
        optimizer=stores_pb2.Optimizer(
            sgd=stores_pb2.Sgd(learning_rate=1), maximum_gradient_norm=_UNREACHED if scene.shards > 1 else 0
        ),
        durability=scene.durability,
        tables=[ROWS] if scene.rows else [],
    )


def kill_rounds(
    scene: Scene, rounds: int, seed: int, on_round: Callable[[int], None] = lambda _kills: None
) -> Outcome:
    """Kill the process `rounds` times under load; look at the values after each kill, and at the end at all of them.

    Args:
        on_round: Told after each kill how many there were.
    """
    random = np.random.default_rng(seed)
    lost = twice = 0
    outages: list[float] = []
    processor: list[float] = []
    pulls: list[float] = []
    with tempfile.TemporaryDirectory() as folder, running(scene, Path(folder)) as (fleet, pushers):
        for _ in range(rounds):
            _await_pushes(pushers, scene.least)
            fleet.prepare()
            _await_pushes(pushers, _TO_LEARN)  # whoever knows no other process could go nowhere
            time.sleep(random.uniform(0, 0.05))  # so that the kill meets another moment each time
            fleet.kill()
            before = [pusher.acknowledged for pusher in pushers]
            killed = time.perf_counter()
            fleet.start()
            _await_store(fleet.addresses)
            outages.append(time.perf_counter() - killed)
            processor.append(fleet.processor_s)
            applied = _applied(scene, fleet.addresses)
            pulls.append(time.perf_counter() - killed)
            lost += int((scene.wanted(before) > applied).sum())
            after = [pusher.acknowledged + 1 for pusher in pushers]  # one more may be under way
            twice += int((scene.wanted(after) < applied).sum())
            on_round(len(outages))
        sure, possible = _settle(scene, pushers)
        final = _applied(scene, fleet.addresses)
    lost += int((final < scene.wanted(sure)).sum())
    twice += int((final > scene.wanted(possible)).sum())
    acknowledged = sum(pusher.acknowledged for pusher in pushers)
    return Outcome(acknowledged, lost, twice, outages, processor, pulls)


def _await_pushes(pushers: list[Pusher], count: int) -> None:
    """Wait until so many more pushes of each worker were acknowledged."""
    begun = [pusher.acknowledged for pusher in pushers]
    for pusher, before in zip(pushers, begun, strict=True):
        pusher.wait_for(before + count)


def _settle(scene: Scene, pushers: list[Pusher]) -> tuple[list[int], list[int]]:
    """End the workers; return how many pushes of each must have been applied, and how many may have been."""
    for pusher in pushers:
        pusher.stop()
    if scene.consistency != stores_pb2.CONSISTENCY_BSP:
        for pusher in pushers:
            pusher.join(OUTAGE_S)
    for pusher in pushers:  # under BSP whoever is a step ahead waits for nobody any more
        pusher.close()
        assert pusher.error is None, pusher.error
    counts = [pusher.acknowledged for pusher in pushers]
    if scene.consistency != stores_pb2.CONSISTENCY_BSP:
        return counts, counts
    most = max(counts)  # one answer means that the step was applied, with the gradients of all
    return [most] * len(counts), [most + 1] * len(counts)


def _await_store(addresses: list[str]) -> None:
    for address in addresses:
        with StoresClient(address) as stores:
            Operation(START_S).attempt(partial(stores.get, STORE))


def _applied(scene: Scene, addresses: list[str]) -> Floats:
    """Return how often each push was applied, shape (1, or 2 with rows; workers, slots)."""
    with ShardedStore(addresses, STORE, epoch=0, worker=0, timeout_s=START_S) as reader:
        dense = scene.applied(reader.pull().values)
    if not scene.rows:
        return dense[None]
    with ShardedTables(addresses, STORE, epoch=0, timeout_s=START_S) as tables:
        rows = -tables.pull_rows(TABLE, range(dense.size)).values.reshape(dense.shape)
    return np.stack([dense, rows])
