"""Agreement without a server: the ranks sum their gradients among themselves, and each applies the mean.

All that a step needs travels in one vector of N + 3 values: the gradient times the rank's samples, the samples, whether the
rank has failed, and whether it ends the run. So unequal batches have the weights they have on a parameter server, and a rank that
fails, or rank 0 that has enough, tells the others in the very sum that they wait for.
"""

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import torch

from headrace.errors import (
    Cancelled,
    HeadraceError,
    InvalidArgument,
    MembersChanged,
    RunFinished,
)
from headrace.parameters.answers import Place
from headrace.parameters.layout import FlatLayout, Floats
from headrace_optimizers.clipping import clip_factor, squared_norm
from headrace_optimizers.config import Optimizer
from headrace_optimizers.embedding import EmbeddingTable
from headrace_optimizers.fused import kind_of, state_names
from headrace_optimizers.making import optimizer_for
from headrace_optimizers.schedule import CONSTANT, Schedule
from headrace_training.core.agreement import NOTHING, Member, Standing, agree
from headrace_training.core.group import (
    AS_LONG_AS_IT_TAKES,
    OWN_FAILURES,
    WITHDRAW_S,
    Group,
    Sharing,
    compare_models,
    heard,
    note_of,
    until_all_heard,
)
from headrace_training.core.state import Checkpoints, TrainingState
from headrace_training.core.synchronizer import refuse_tables

SAMPLES, FAILED, FINISHED = -3, -2, -1  # places in the vector


class AllReduce:
    """A `Synchronizer` over a group of ranks.

    Args:
        join: Finds the other ranks; called when this one is ready to begin and, if it is a `member`, whenever they have changed.
        snapshot: The checkpoint to go on from; empty: begin anew.
        start_step: Steps already applied.
        schedule: Of the optimizer's learning rate.
        maximum_gradient_norm: The mean gradient of a step is scaled down to this norm; 0: it is not.
        member: None: the ranks are always the same, and the run ends with the first that is lost.
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
        member: Member | None = None,
    ) -> None:
        self._join, self._config, self._checkpoints = join, optimizer, checkpoints
        self._snapshot, self._step = snapshot, start_step
        self._schedule, self._maximum_gradient_norm = schedule, maximum_gradient_norm
        self._group: Group | None = None  # None: there is nobody to tell
        self._member = member
        # How far this rank is, beside its steps: whether it has values of the run, and has agreed on them with others; and
        # whether what ends a step is done, too.
        self._has_values, self._agreed = member is None or member.founder, False
        self._complete = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._release()
        elif isinstance(error, Exception) and not isinstance(error, Cancelled):
            self._withdraw(error)

    def gradient_memory(self, size: int) -> Floats:
        """Return memory of this process alone; what travels is another vector."""
        return np.zeros(size, np.float32)

    def begin(
        self,
        layout: FlatLayout,
        values: torch.Tensor,
        tables: Sequence[EmbeddingTable] = (),
        buffers: Sequence[torch.Tensor] = (),
    ) -> Place | None:
        """Take rank 0's values, or the checkpoint's, on every rank; one that joins later takes those of a rank that has some.

        Raises:
            InvalidArgument: The model has tables, or the checkpoint is of another model, optimizer or step.
            ShapeMismatch: The ranks have different models.
        """
        refuse_tables(tables)
        self._layout, self._values, self._buffers = layout, values, buffers
        self._optimizer = optimizer_for(self._config, layout, [range(layout.size)], device=values.device)
        if self._snapshot and self._has_values:
            self._restore(self._checkpoints.load(self._snapshot))
        place = self.rejoin()
        return place if self._member else None

    def rejoin(self) -> Place:
        """Meet the members there are now, and have the state of the one that is furthest.

        Raises:
            StaleEpoch: This rank is none of them.
            Unavailable: Nobody has the values any more.
        """
        while True:
            with contextlib.suppress(MembersChanged):  # they have changed again
                group = self._join()
                self._agree(group)
                self._catch_up()
                return Place(group.rank, group.size, step=self._step)

    def begin_step(self, step: int, gradient: torch.Tensor, samples: int) -> None:
        """Take gradients whole: they are summed as one vector."""

    def step(self, step: int, gradient: torch.Tensor, samples: int) -> int:
        """Sum the gradients, and apply their mean as every other rank does: the values stay the same on all."""
        mean = self._mean(gradient, samples)
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
        self._vector[FINISHED] = 1
        with contextlib.suppress(RunFinished):
            self._sum()

    def final(self) -> None:
        """Do nothing: the values are the newest."""

    def stay(self) -> None:
        """Take part in one sum more, which the rank that leads comes to when the result is safe.

        Raises:
            MembersChanged: It may be lost: meet again.
        """
        if self._member:
            self._vector.zero_()
            with contextlib.suppress(RunFinished):
                self._sum(AS_LONG_AS_IT_TAKES)  # measuring and registering the result is no step
            self._group = None

    def _agree(self, group: Group) -> None:
        """Have the state that all members go on with."""
        compare_models(group, self._layout)
        # A new one: where a collective was let go of, its thread may still write to the old one.
        self._vector = self._values.new_zeros(self._layout.size + 3)
        numbers = torch.zeros(group.size, dtype=torch.float64)
        mine = Standing(self._step, self._complete, self._agreed).number if self._has_values else NOTHING
        numbers[group.rank] = mine
        group.sum(numbers)
        agreement = agree([int(number) for number in numbers.tolist()])
        takes = agreement.takes(group.rank, mine)
        sharing = Sharing(group, agreement.source, self._vector)
        # Whoever takes over keeps what it has until it has all of it: the source may be lost on the way.
        values = torch.empty_like(self._values) if takes else self._values
        if agreement.values:
            sharing.share(values, takes=takes)
        if agreement.everything:
            state = self._share_optimizer(sharing, takes=takes)
            for buffer in self._buffers:
                sharing.share(buffer, takes=mine == NOTHING)
            if takes:
                self._optimizer.load(state)
        if takes:
            self._values.copy_(values)
            self._took_over()
        self._step, self._complete = agreement.standing.step, agreement.standing.complete
        self._has_values = self._agreed = True
        self._group = group

    def _took_over(self) -> None:
        """Take note that what this rank has is another one's."""

    def _catch_up(self) -> None:
        """Do what is left of the step."""

    def _share_optimizer(self, sharing: Sharing, *, takes: bool) -> dict[str, torch.Tensor]:
        """Send the state of the source's optimizer, which has none before its first step, and return it to who takes it."""
        mine = self._optimizer.views()
        count = torch.tensor([float(len(mine))])
        sharing.share(count, takes=True)
        vectors = state_names(self._config)[: int(count)]
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(vectors, (self._layout.size,))
        if int(count) > len(vectors):
            shapes["step"] = ()
        state = {
            name: self._values.new_empty(shape) if takes or name not in mine else mine[name]
            for name, shape in shapes.items()
        }
        for tensor in state.values():
            sharing.share(tensor, takes=takes)
        return state

    def _mean(self, mine: torch.Tensor, samples: int) -> torch.Tensor:
        """Return the mean of all ranks' vectors, shape (N,), weighted by their samples; it is valid until the next call."""
        size, vector = self._layout.size, self._vector
        torch.mul(mine, samples, out=vector[:size])
        vector[SAMPLES], vector[FAILED], vector[FINISHED] = samples, 0, 0
        self._sum()
        return vector[:size].div_(vector[SAMPLES])

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

    def _sum(self, timeout_s: float | None = None) -> None:
        group = self._group
        assert group is not None, "begin comes first"
        try:
            group.sum(self._vector, timeout_s)
        except HeadraceError:
            self._group = None
            raise
        if self._vector[FAILED] > 0:
            self._group = None
            raise heard(group)
        if self._vector[FINISHED] > 0:
            self._group = group if self._member else None  # who stays may have to go on
            raise RunFinished("rank 0 has ended the run")

    def _release(self) -> None:
        """Let those that stay know that the result is safe."""
        group, self._group = self._group, None
        if group and self._member:
            self._vector.zero_()
            self._vector[FINISHED] = 1
            with contextlib.suppress(HeadraceError):  # who does not hear it is stopped
                group.sum(self._vector, WITHDRAW_S)

    def _withdraw(self, error: Exception) -> None:
        """Take part in the sum that the others wait for, to say that this rank has failed."""
        group, self._group = self._group, None
        if group is None or (self._member and isinstance(error, OWN_FAILURES)):
            return
        with contextlib.suppress(HeadraceError):  # they are gone too, and need not know
            group.tell(note_of(self._member.number if self._member else group.rank, error))
            self._vector.zero_()
            self._vector[FAILED] = 1
            group.sum(self._vector, WITHDRAW_S)
            until_all_heard(group)
