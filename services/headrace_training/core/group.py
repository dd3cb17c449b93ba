"""The ranks of a run without a parameter server, as one of them reaches the others; and what they tell each other beside gradients."""

import contextlib
import hashlib
import json
import math
from typing import Protocol

import torch

from headrace.errors import (
    Aborted,
    DataLoss,
    DeadlineExceeded,
    HeadraceError,
    Internal,
    ProgramFailed,
    ResourceExhausted,
    ShapeMismatch,
    StaleEpoch,
    Unavailable,
    error_class,
)
from headrace.parameters.layout import FlatLayout

# What a rank may fail with that the others need not: they go on without it.
OWN_FAILURES = (Aborted, DataLoss, DeadlineExceeded, Internal, ResourceExhausted, StaleEpoch, Unavailable)
WITHDRAW_S = 10.0  # how long a rank that fails waits for the others to hear of it
AS_LONG_AS_IT_TAKES = math.inf  # of a sum: until it is done, a rank is lost, or the scheduler says so


class Group(Protocol):
    """The members of a run, as one of them reaches the others."""

    @property
    def rank(self) -> int:
        """This one's place among them, from 0."""

    @property
    def size(self) -> int:
        """How many ranks there are."""

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        """Replace `vector` by the sum of all ranks' vectors; waits until all have called.

        Args:
            timeout_s: At most so long; None: as long as a step may take. `AS_LONG_AS_IT_TAKES` has no bound.
        Raises:
            Unavailable, DeadlineExceeded: A rank is gone, or does not come.
            MembersChanged: Likewise, or another one joins, in a run that goes on: meet again.
            Cancelled: The rank was asked to stop.
        """

    def tell(self, note: str) -> None:
        """Leave a note for the other ranks, unless there is one."""

    def note(self) -> str:
        """Return the note, or nothing."""


class Sharing:
    """Sends tensors of one member to the others, each by a sum in which only that one's counts.

    Args:
        source: Place of that member.
        memory: Of float32, to send what fits into it.
    """

    def __init__(self, group: Group, source: int, memory: torch.Tensor) -> None:
        self._group, self._source, self._memory = group, source, memory

    def share(self, tensor: torch.Tensor, *, takes: bool) -> None:
        """Send the source's tensor, of the same shape and type on all members.

        Args:
            takes: This rank's becomes equal to it; else it stays as it is.
        """
        if tensor.is_complex():
            numbers = torch.view_as_real(tensor.resolve_conj())
            self.share(numbers, takes=takes)
            if takes:
                tensor.copy_(torch.view_as_complex(numbers))
            return
        size = tensor.numel()
        fits = tensor.dtype == torch.float32 and size <= len(self._memory)
        part = self._memory[:size] if fits else self._memory.new_empty(size, dtype=_carrier(tensor.dtype))
        if self._group.rank == self._source:
            part.copy_(tensor.reshape(-1))
        else:
            part.zero_()
        self._group.sum(part)
        if takes:
            tensor.copy_(part.view(tensor.shape))


def _carrier(dtype: torch.dtype) -> torch.dtype:
    """Return what holds every number of a type, and can be summed by a group."""
    return torch.float64 if dtype.is_floating_point else torch.int64


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


def heard(group: Group) -> HeadraceError:
    """Read why another rank has failed, as an error of the same reason: whoever hears of both first decides alike."""
    with contextlib.suppress(HeadraceError):
        note = group.note()
        until_all_heard(group)
        if note:
            return error_of(note)
    return Unavailable("another rank has failed; its own task says why")


def until_all_heard(group: Group) -> None:
    """Wait until every rank knows what it had to hear."""
    group.sum(torch.zeros(1), WITHDRAW_S)
