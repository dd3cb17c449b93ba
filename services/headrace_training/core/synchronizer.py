"""How a rank and the others agree on the model's values: the one thing in which the strategies differ."""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

import torch

from headrace.errors import InvalidArgument
from headrace.parameters.answers import Place
from headrace.parameters.layout import FlatLayout, Floats
from headrace_optimizers.embedding import EmbeddingTable
from headrace_training.core.early_gradient import Early


class Synchronizer(Protocol):
    """One rank's part in it, as a context: leaving it with an error lets the other ranks know.

    `begin` is called once, before all but `gradient_memory`, then `step` for the first step, and for whichever it returns.
    """

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the others."""

    def gradient_memory(self, size: int) -> Floats:
        """Return zeros, shape (size,), from where a gradient that is computed on the host travels with the fewest copies."""

    def begin(
        self,
        layout: FlatLayout,
        values: torch.Tensor,
        tables: Sequence[EmbeddingTable] = (),
        buffers: Sequence[torch.Tensor] = (),
    ) -> Place | None:
        """Agree on the values to begin with.

        Args:
            values: The model's own memory, shape (N,): what the ranks agree on is written to it, now and in each step.
            tables: The model's. Their gradients are applied with the other ones of a step.
            buffers: The model's, as BatchNorm has: each rank's own, but one that joins without a store begins with another one's.
        Returns:
            The rank's place among those that take part, and the step they are in; None: as the run says.
        """

    def rejoin(self) -> Place:
        """Take a place anew, after `MembersChanged`, and the values that its step begins with.

        Raises:
            StaleEpoch: The others go on without this rank.
        """

    def begin_step(self, step: int, gradient: torch.Tensor, samples: int) -> Early | None:
        """Begin `step` while its gradient is still computed, in place, and take parts of it as they are there; nothing counts before `step`.

        Returns:
            Who takes them; None: the gradient is taken whole.
        """

    def step(self, step: int, gradient: torch.Tensor, samples: int) -> int:
        """Apply the mean of all ranks' gradients, weighted by their samples.

        Args:
            gradient: Shape (N,), the mean over `samples` samples; may be written to.
            samples: 0 if the rank had nothing to do in this step.
        Returns:
            The step to compute with the new values; more than one on if the run went on without this rank.
        Raises:
            MembersChanged: Ranks have joined or left: `rejoin`, and compute the step again with the new place's share.
            RunFinished: Rank 0 has ended the run; the values are of no more use.
        """

    def checkpoint(self) -> Sequence[str]:
        """Save all that the run needs to go on from here; return the artifacts. Called by rank 0 alone, between steps."""

    def finish_run(self) -> None:
        """End the run for all ranks, before its last step. Called by rank 0 alone, between steps; the values stay as they are."""

    def final(self) -> None:
        """Bring the newest values, those of other ranks' last steps included."""

    def stay(self) -> None:
        """Wait, after the last step, for as long as the one that leads may need another rank to take over.

        Raises:
            MembersChanged: It may be this one's turn: `rejoin`.
        """


def refuse_tables(tables: Sequence[EmbeddingTable]) -> None:
    """Refuse a model with tables.

    Raises:
        InvalidArgument: It has one.
    """
    if tables:
        raise InvalidArgument(
            f"the model has a table, {tables[0].config.name!r}, and rows live in a parameter server alone; use --strategy parameter-server"
        )
