"""A third shard joins a store of 256 MB while two workers push, and leaves again: how long it takes, and how long pushes wait.

Each round is one join (measured whole, and by the pause that the service tells of) and one leave; the workers take steps all the time, and
the longest step of a round is what they feel. The reference is their median step without any change.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from benchmarks._shards import shard_process
from benchmarks.harness import Case
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.layout import FlatLayout, TensorSpec
from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.resharding_pb2 import ReshardRequest
from headrace.parameters.v1.resharding_pb2_grpc import ReshardingStub
from headrace.rpc.channel import open_channel

STORE = "projects/default/stores/reshard"
SIZE = 64 << 20  # values: 256 MB, and as much again of momentum
WORKERS = 2
QUIET_STEPS = 5


class Pushing:
    """Two workers that take steps until told to stop."""

    def __init__(self, addresses: list[str], stack: ExitStack) -> None:
        self.longest_s, self.steps = 0.0, list[float]()
        self._stopped = threading.Event()
        stores = [
            stack.enter_context(ShardedStore(addresses, STORE, epoch=1, worker=worker, timeout_s=120))
            for worker in range(WORKERS)
        ]
        layout = FlatLayout((TensorSpec("w", (SIZE,)),))
        for store in stores:
            store.initialize(layout, np.zeros(SIZE, np.float32))
        self._threads = [threading.Thread(target=self._run, args=(store,)) for store in stores]
        for thread in self._threads:
            thread.start()
        stack.callback(self._stop)

    def _run(self, store: ShardedStore) -> None:
        gradient, out = store.gradient_memory(SIZE), np.empty(SIZE, np.float32)
        gradient.fill(1e-3)
        step = 0
        while not self._stopped.is_set():
            began = time.perf_counter()
            step = store.push_pull(step, gradient, samples=1, out=out).next_step
            took = time.perf_counter() - began
            self.longest_s = max(self.longest_s, took)
            self.steps.append(took)

    def quiet_step_ms(self) -> float:
        """Return the median of the next few steps."""
        seen = len(self.steps)
        while len(self.steps) < seen + QUIET_STEPS * WORKERS:
            time.sleep(0.01)
        return 1e3 * statistics.median(self.steps[seen:])

    def _stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def reshard() -> Iterator[list[Case]]:
    """Let a shard join and leave under load."""
    with ExitStack() as stack:
        addresses = [stack.enter_context(shard_process()) for _ in range(3)]
        for index, address in enumerate(addresses[:2]):
            _create(address, index)
        stub = ReshardingStub(stack.enter_context(open_channel(addresses[0])))
        pushing = Pushing(addresses[:2], stack)
        joined = {"map_epoch": 1, "whole_ms": 0.0, "pause_ms": 0.0, "longest_ms": 0.0}

        def change(shards: list[str], add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
            request = ReshardRequest(
                store=STORE,
                epoch=1,
                map_epoch=int(joined["map_epoch"]),
                shards=shards,
                add=add,
                remove=remove,
            )
            pushing.longest_s, began = 0.0, time.perf_counter()
            answer = stub.Reshard(request, timeout=120)
            joined["whole_ms"] = 1e3 * (time.perf_counter() - began)
            joined["pause_ms"], joined["map_epoch"] = 1e3 * answer.paused_s, answer.shard_map.epoch
            pushing.quiet_step_ms()  # the steps that waited are over
            joined["longest_ms"] = 1e3 * pushing.longest_s

        def join() -> float:
            change(shards=addresses[:2], add=addresses[2:])
            return joined["whole_ms"]

        def leave() -> float:
            change(shards=addresses, remove=addresses[2:])
            return joined["whole_ms"]

        def told(fact: str) -> Callable[[], float]:
            return lambda: joined[fact]

        yield [
            Case("step of 2 workers, 2 shards", "ms", pushing.quiet_step_ms),
            Case("a third shard joins", "ms", join),
            Case("pause of pushes, join", "ms", told("pause_ms")),
            Case("longest step, join", "ms", told("longest_ms"), reference="step of 2 workers, 2 shards"),
            Case("it leaves", "ms", leave),
            Case("pause of pushes, leave", "ms", told("pause_ms")),
            Case("longest step, leave", "ms", told("longest_ms"), reference="step of 2 workers, 2 shards"),
        ]


def _create(address: str, index: int) -> None:
    sgd = stores_pb2.Sgd(learning_rate=0.1, momentum=0.9)
    request = stores_pb2.CreateStoreRequest(
        name=STORE,
        epoch=1,
        shard_index=index,
        shard_count=2,
        worker_count=WORKERS,
        consistency=stores_pb2.CONSISTENCY_BSP,
        optimizer=stores_pb2.Optimizer(sgd=sgd),
    )
    with StoresClient(address) as stores:
        stores.create(request)
