"""Agreement without a server: the ranks sum their gradients among themselves, and each applies the mean.

All that a step needs travels in one vector of N + 3 values: the gradient times the rank's samples, the samples, whether the
rank has failed, and whether it ends the run. So unequal batches have the weights they have on a parameter server, and a rank that
fails, or rank 0 that has enough, tells the others in the very sum that they wait for.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import torch

from headrace.errors import (
    Cancelled,
    HeadraceError,
    InvalidArgument,
    ProgramFailed,
    RunFinished,
    ShapeMismatch,
    Unavailable,
    error_class,
)
from headrace.parameters.answers import Place
from headrace.parameters.layout import FlatLayout, Floats
from headrace_optimizers.clipping import clip_factor, squared_norm
from headrace_optimizers.config import Optimizer
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.fused import kind_of
from headrace_optimizers.making import optimizer_for
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_training.core.state import TrainingState

WITHDRAW_S = 10.0  # how long a rank that fails waits for the others to hear of it
_SAMPLES, _FAILED, _FINISHED = -3, -2, -1  # places in the vector


class Group(Protocol):
    """The ranks of a run, as one of them reaches the others."""

    @property
    def rank(self) -> int:
        """This rank's number."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        """Replace `vector` by the sum of all ranks' vectors; waits until all have called.

        Args:
            timeout_s: At most so long; None: as long as a step may take.
        Raises:
            Unavailable, DeadlineExceeded: A rank is gone, or does not come.
            Cancelled: The rank was asked to stop.
        """

    def tell(self, note: str) -> None:
        """Leave a note for the other ranks, unless there is one."""

    def note(self) -> str:
        """Return the note, or nothing."""


class Checkpoints(Protocol):
    """Where states are kept."""

    def save(self, state: TrainingState) -> str:
        """Store a state and return its artifact."""

    def load(self, artifact: str) -> TrainingState:
        """Return what was saved."""


class AllReduce:
    """A `Synchronizer` over a group of ranks.

    Args:
        join: Finds the other ranks; called when this one is ready to begin.
        snapshot: The checkpoint to go on from; empty: begin anew.
        start_step: Steps already applied.
        schedule: Of the optimizer's learning rate.
        maximum_gradient_norm: The mean gradient of a step is scaled down to this norm; 0: it is not.
    """

    def __init__(
        self,
        join: Callable[[], Group],
        optimizer: Optimizer,
        checkpoints: Checkpoints,
        snapshot: str = "",
        start_step: int = 0,
        schedule: Schedule = CONSTANT,
        maximum_gradient_norm: float = 0.0,
    ) -> None:
        self._join, self._config, self._checkpoints = join, optimizer, checkpoints
        self._snapshot, self._step = snapshot, start_step
        self._schedule, self._maximum_gradient_norm = schedule, maximum_gradient_norm
        self._group: Group | None = None  # None: there is nobody to tell

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, Cancelled):
            self._withdraw(error)

    def gradient_memory(self, size: int) -> Floats:
        """Return memory of this process alone; what travels is another vector."""
        return np.zeros(size, np.float32)

    def begin(
        self, layout: FlatLayout, values: Floats, tables: Sequence[EmbeddingTable] = ()
    ) -> Place | None:
        """Take rank 0's values, or the checkpoint's, on every rank.

        Raises:
            InvalidArgument: The model has tables, or the checkpoint is of another model, optimizer or step.
            ShapeMismatch: The ranks have different models.
        """
        refuse_tables(tables)
        self._layout, self._values = layout, torch.from_numpy(values)
        self._optimizer = optimizer_for(self._config, layout, [range(layout.size)])
        self._vector = torch.zeros(layout.size + 3)
        if self._snapshot:
            self._restore(self._checkpoints.load(self._snapshot))
        group = self._join()
        compare_models(group, layout)
        self._group = group
        if group.rank == 0:
            self._vector[: layout.size] = self._values
        self._sum()
        self._values.copy_(self._vector[: layout.size])
        return None

    def rejoin(self) -> Place:
        """Do not: a collective ends with the first rank that is lost, and the next attempt goes on from the checkpoint."""
        raise AssertionError("the ranks of a collective are always the same")

    def begin_step(self, step: int, gradient: Floats, samples: int) -> None:
        """Take gradients whole: they are summed as one vector."""

    def step(self, step: int, gradient: Floats, samples: int) -> int:
        """Sum the gradients, and apply their mean as every other rank does: the values stay the same on all."""
        mean = self._mean(torch.from_numpy(gradient), samples)
        maximum = self._maximum_gradient_norm
        self._apply(step, mean, clip_factor(squared_norm(mean), maximum) if maximum else 1.0)
        self._step = step + 1
        return self._step

    def checkpoint(self) -> Sequence[str]:
        """Save this rank's values and optimizer, which are every rank's."""
        state = TrainingState(
            self._layout, self._step, kind_of(self._config), self._values, self._optimizer.state()
        )
        return (self._checkpoints.save(state),)

    def finish_run(self) -> None:
        """Take part in the sum that the others wait for, or will soon, to say that it is the last."""
        self._vector.zero_()
        self._vector[_FINISHED] = 1
        with contextlib.suppress(RunFinished):
            self._sum()

    def final(self) -> None:
        """Do nothing: the values are the newest."""

    def _mean(self, mine: torch.Tensor, samples: int) -> torch.Tensor:
        """Return the mean of all ranks' vectors, shape (N,), weighted by their samples; it is valid until the next call."""
        size, vector = self._layout.size, self._vector
        torch.mul(mine, samples, out=vector[:size])
        vector[_SAMPLES], vector[_FAILED], vector[_FINISHED] = samples, 0, 0
        self._sum()
        return vector[:size].div_(vector[_SAMPLES])

    def _apply(self, step: int, gradient: torch.Tensor, weight: float = 1.0) -> None:
        """Do one step with the gradient, shape (N,), times a weight."""
        factor = self._schedule.factor(step)
        self._values.copy_(self._optimizer.apply(self._values, [(gradient, weight)], factor))

    def _restore(self, state: TrainingState) -> None:
        expected = (self._layout, kind_of(self._config), self._step)
        if (state.layout, state.optimizer, state.step) != expected:
            raise InvalidArgument(
                f"{self._snapshot} is of step {state.step}, {state.optimizer}, {state.layout.size} values; the run needs step "
                f"{self._step}, {kind_of(self._config)} and its own model's {self._layout.size}",
                field="snapshot",
            )
        self._values.copy_(state.values)
        self._optimizer.load(state.optimizer_state)

    def _sum(self) -> None:
        group = self._group
        assert group is not None, "begin comes first"
        try:
            group.sum(self._vector)
        except HeadraceError:
            self._group = None
            raise
        if self._vector[_FAILED] > 0:
            self._group = None
            raise _heard(group)
        if self._vector[_FINISHED] > 0:
            self._group = None
            raise RunFinished("rank 0 has ended the run")

    def _withdraw(self, error: Exception) -> None:
        """Take part in the sum that the others wait for, to say that this rank has failed."""
        group, self._group = self._group, None
        if group is None:
            return
        with contextlib.suppress(HeadraceError):  # they are gone too, and need not know
            group.tell(note_of(group.rank, error))
            self._vector.zero_()
            self._vector[_FAILED] = 1
            group.sum(self._vector, WITHDRAW_S)
            _until_all_heard(group)


def refuse_tables(tables: Sequence[EmbeddingTable]) -> None:
    """Refuse a model with tables.

    Raises:
        InvalidArgument: It has one.
    """
    if tables:
        raise InvalidArgument(
            f"the model has a table, {tables[0].config.name!r}, and rows live in a parameter server alone; use --strategy parameter-server"
        )


class Summing(Protocol):
    """Ranks that sum."""

    @property
    def size(self) -> int:
        """How many there are."""

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        """Replace `vector` by the sum of all ranks' vectors."""


def compare_models(group: Summing, layout: FlatLayout) -> None:
    """Fail unless all ranks have a model of the same tensors; at least one rank notices, and leaves.

    Raises:
        ShapeMismatch: They have not.
    """
    digest = hashlib.sha256(repr(layout.tensors).encode()).digest()
    mine = float(int.from_bytes(digest[:5], "big"))  # 40 bits: a sum over 1024 ranks is exact
    total = torch.tensor([mine], dtype=torch.float64)
    group.sum(total)
    if total.item() != mine * group.size:
        raise ShapeMismatch(
            "the ranks have models of different tensors; model() must return the same one each time"
        )


def note_of(rank: int, error: Exception) -> str:
    """Write down why a rank fails, for the others."""
    ours = error if isinstance(error, HeadraceError) else ProgramFailed(f"{type(error).__name__}: {error}")
    return json.dumps([rank, ours.reason, int(ours.code), ours.message])


def error_of(note: str) -> HeadraceError:
    """Return the error that `note_of` wrote down."""
    rank, reason, code, message = json.loads(note)
    return error_class(reason, code)(f"rank {rank}: {message}")


def _heard(group: Group) -> HeadraceError:
    """Read why another rank has failed, as an error of the same reason: whoever hears of both first decides alike."""
    with contextlib.suppress(HeadraceError):
        note = group.note()
        _until_all_heard(group)
        if note:
            return error_of(note)
    return Unavailable("another rank has failed; its own task says why")


def _until_all_heard(group: Group) -> None:
    group.sum(torch.zeros(1), WITHDRAW_S)
