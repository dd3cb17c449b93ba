"""A rank that the run does not wait for: it goes on where the others are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from headrace.parameters.answers import Place
from headrace.parameters.layout import FlatLayout, Floats
from headrace.testing import FakeClock
from headrace_training.core.parameter_server import ParameterServer
from headrace_training.core.rank import Rank
from headrace_training.core.run import Run
from headrace_training.core.selection import Best
from tests.unit.training.lockstep_store import Pulled, Snapshot
from tests.unit.training.small_program import Small


@dataclass
class StoreThatGoesOn:
    """A store that is `ahead` steps further each time this rank has done one."""

    ahead: int
    pushed: list[int] = field(default_factory=list)

    def gradient_memory(self, size: int) -> Floats:
        return np.zeros(size, np.float32)

    def initialize(self, layout: FlatLayout, values: Floats, tables: object = ()) -> int:
        return 0

    def pull(self, *, out: Floats, exact: bool = True) -> None:
        pass

    def begin_push_pull(self, step: int, gradient: Floats, samples: float) -> None:
        """Gradients are taken whole."""

    def push_pull(self, step: int, gradient: Floats, samples: float, out: Floats) -> Pulled:
        self.pushed.append(step)
        return Pulled(next_step=step + self.ahead)

    def take_place(self, out: Floats) -> Place:
        return Place()

    def snapshot(self) -> Snapshot:
        return Snapshot(("snapshot",))

    def finish_run(self) -> None:
        raise AssertionError("nobody asked for an early end")

    def close(self) -> None:
        """Nothing to let go of."""


@dataclass
class Heard:
    steps: list[int] = field(default_factory=list)
    checkpoints: list[int] = field(default_factory=list)

    def advanced(self, step: int, metrics: Mapping[str, float]) -> None:
        self.steps.append(step)

    def checkpointed(self, step: int, snapshots: Sequence[str]) -> None:
        self.checkpoints.append(step)

    def evaluated(self, step: int, metrics: Mapping[str, float]) -> None:
        pass

    def improved(self, best: Best, state: Mapping[str, torch.Tensor]) -> None:
        raise AssertionError("nobody asked for the best")

    def took_lead(self, step: int) -> Best | None:
        raise AssertionError("rank 0 leads from the beginning")

    def raise_if_stopped(self) -> None:
        pass


@pytest.mark.parametrize("rank", [0, 1])
def test_a_late_rank_skips_the_steps_that_are_done_and_keeps_its_checkpoints(rank: int) -> None:
    store, heard = StoreThatGoesOn(ahead=3), Heard()
    run = Run(steps=11, batch_size=16, seed=3, rank=rank, world_size=2, checkpoint_every=5)

    Rank(Small(), run, ParameterServer(store), heard, FakeClock()).train()

    assert store.pushed == [0, 3, 6, 9]
    assert heard.steps == [3, 6, 9, 11]
    assert heard.checkpoints == ([6, 11] if rank == 0 else [])


def test_a_rank_never_repeats_a_step() -> None:
    """After a resume its next step may lie behind: the store takes what it had before for a duplicate."""
    store, heard = StoreThatGoesOn(ahead=-2), Heard()

    Rank(Small(), Run(steps=3, batch_size=16, seed=3), ParameterServer(store), heard, FakeClock()).train()

    assert store.pushed == [0, 1, 2]
