"""What it is worth that gradients travel while backward computes them: the suite `python -m benchmarks.parameters overlap`.

One worker with one thread trains a model of eight layers against one shard, by streams, without a limit and over links of limited bandwidth. A step
sends its gradient when backward has ended, or each layer's as soon as it is there. Both must train the same values, to the bit.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import count

import torch

from benchmarks._shards import shard_process
from benchmarks._slow_link import slow_link
from benchmarks.harness import Case
from headrace.parameters.client import ShardedStore, StoresClient
from headrace.parameters.malloc import keep_freed_memory
from headrace.parameters.v1 import stores_pb2
from headrace_training.core.early_gradient import ReadyParts
from headrace_training.core.flat_model import FlatModel, trainable

WIDTH, LAYERS = 768, 8  # 4.7 million parameters, 19 MB
ROWS = 512
LINKS = {"no limit": 0.0, "10 Gbit/s": 1e10, "1 Gbit/s": 1e9}
WAYS = ("whole", "early")


class Training:
    """A model and a store of its own."""

    def __init__(self, stack: ExitStack, address: str, near: str, name: str, *, early: bool) -> None:
        with StoresClient(address) as stores:
            stores.create(_request(name))
        torch.manual_seed(0)
        layers = [layer for _ in range(LAYERS) for layer in (torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh())]
        self.model = FlatModel(torch.nn.Sequential(*layers))
        self._rows, self._early = torch.randn(ROWS, WIDTH), early
        self._parts = ReadyParts(trainable(self.model.module), self.model.layout)
        self._store = stack.enter_context(ShardedStore([near], name, epoch=1, worker=0, shared_memory=False))
        self._store.initialize(self.model.layout, self.model.values.numpy())
        self._steps = count()
        self.backward_ms = 0.0

    def step_ms(self) -> float:
        """Take one step, and return its time."""
        step, model, began = next(self._steps), self.model, time.perf_counter()
        model.begin(step)
        loss = model.module(self._rows).square().mean()
        computing = time.perf_counter()
        early = self._store.begin_push_pull(step, model.gradient.numpy(), 1) if self._early else None
        with self._parts.told_to(early) if early else nullcontext():
            loss.backward()
        self.backward_ms = 1e3 * (time.perf_counter() - computing)
        self._store.push_pull(step, model.gradient.numpy(), 1, out=model.values.numpy())
        return 1e3 * (time.perf_counter() - began)


@contextmanager
def overlap() -> Iterator[list[Case]]:
    """Train over every link both ways, in turn."""
    keep_freed_memory()
    torch.set_num_threads(1)
    with ExitStack() as stack:
        address, made = stack.enter_context(shard_process(SLOTS="16")), []
        for number, (link, bits_per_s) in enumerate(LINKS.items()):
            near = stack.enter_context(slow_link(address, bits_per_s)) if bits_per_s else address
            whole, early = (
                Training(
                    stack,
                    address,
                    near,
                    f"projects/default/stores/overlap-{way}-{number}",
                    early=way == "early",
                )
                for way in WAYS
            )
            stack.callback(_check_same, whole, early)
            made += [
                Case(f"backward alone, {link}", "ms", _backward(whole)),
                Case(f"step, gradient whole, {link}", "ms", whole.step_ms),
                Case(
                    f"step, gradient early, {link}",
                    "ms",
                    early.step_ms,
                    reference=f"step, gradient whole, {link}",
                ),
            ]
        yield made


def _backward(training: Training) -> Callable[[], float]:
    return lambda: training.backward_ms  # of the last step


def _check_same(whole: Training, early: Training) -> None:
    assert torch.equal(whole.model.values, early.model.values), "early gradients train other values"


def _request(name: str) -> stores_pb2.CreateStoreRequest:
    return stores_pb2.CreateStoreRequest(
        name=name,
        epoch=1,
        shard_count=1,
        worker_count=1,
        consistency=stores_pb2.CONSISTENCY_BSP,
        optimizer=stores_pb2.Optimizer(sgd=stores_pb2.Sgd(learning_rate=1e-3)),
    )
