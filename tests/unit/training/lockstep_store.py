"""A parameter store in memory: BSP over threads, one torch optimizer over the whole vector."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from headrace.errors import NonFiniteValues, RunFinished
from headrace.parameters.answers import Place
from headrace.parameters.layout import FlatLayout, Floats

MakeOptimizer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


@dataclass
class Pulled:
    next_step: int


@dataclass
class Snapshot:
    artifacts: tuple[str, ...]


@dataclass
class LockstepStore:
    workers: int
    make_optimizer: MakeOptimizer
    version: int = 0
    layout: FlatLayout | None = None
    values: torch.nn.Parameter = field(default_factory=lambda: torch.nn.Parameter(torch.empty(0)))
    snapshots: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: list[tuple[Floats, float]] = []
        self._optimizer: torch.optim.Optimizer | None = None
        self._finished = False

    def gradient_memory(self, size: int) -> Floats:
        return np.zeros(size, np.float32)

    def initialize(self, layout: FlatLayout, values: Floats, tables: object = ()) -> int:
        with self._changed:
            if self.layout is None:
                self.layout = layout
                self.values = torch.nn.Parameter(torch.from_numpy(values.copy()))
                self._optimizer = self.make_optimizer([self.values])
            return self.version

    def pull(self, *, out: Floats, exact: bool = True) -> Pulled:
        with self._changed:
            out[...] = self.values.detach().numpy()
            return Pulled(self.version)

    def begin_push_pull(self, step: int, gradient: Floats, samples: float) -> None:
        """Gradients are taken whole."""

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats) -> Pulled:
        if not np.isfinite(gradient).all():
            raise NonFiniteValues("the gradient has a NaN")
        with self._changed:
            assert step == self.version, "BSP: every rank is in the same step"
            self._pending.append((gradient.copy(), samples))
            if len(self._pending) == self.workers:
                self._apply()
            assert self._changed.wait_for(lambda: self.version > step or self._finished, timeout=30)
            if self._finished:
                raise RunFinished("the run has ended")
        return self.pull(out=out)

    def take_place(self, out: Floats) -> Place:
        raise AssertionError("the ranks of this store do not change")

    def snapshot(self) -> Snapshot:
        with self._changed:
            self.snapshots.append(self.version)
            return Snapshot((f"snapshot-{self.version}",))

    def finish_run(self) -> None:
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing to let go of."""

    def _apply(self) -> None:
        assert self._optimizer is not None
        total = sum(samples for _, samples in self._pending)
        mean = sum(
            (gradient * np.float32(samples / total) for gradient, samples in self._pending), np.float32(0)
        )
        self.values.grad = torch.from_numpy(np.asarray(mean))
        self._optimizer.step()
        self._pending.clear()
        self.version += 1
        self._changed.notify_all()
