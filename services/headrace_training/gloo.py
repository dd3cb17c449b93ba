"""A group of ranks over torch's gloo: sums through TCP connections between each two of them."""

import math
from datetime import timedelta
from typing import Any

import torch
import torch.distributed

from headrace.errors import Unavailable
from headrace_training.interruption import Interruptible

c10d: Any = torch.distributed  # torch's own stubs leave out half of what follows
Store = Any  # torch.distributed.Store

_NOTE = "note"
_LONGEST_S = 10 * 365 * 86400.0  # gloo has no word for a wait without a bound
_NOTE_S = 5.0  # the note is left before anybody is sent to read it


class GlooGroup:
    """One rank's connections to all others; made when all have come.

    Args:
        store: Where the ranks find each other; kept by rank 0.
        host: The address of this machine that the others reach.
        timeout_s: Bound of every sum and of the making.
    Raises:
        Unavailable: A rank went away meanwhile.
        Cancelled, DeadlineExceeded: As in `Interruptible.run`.
    """

    def __init__(
        self, store: Store, rank: int, size: int, host: str, timeout_s: float, waiting: Interruptible
    ) -> None:
        self.rank, self.size = rank, size
        self._timeout_s, self._waiting = timeout_s, waiting
        self._store = store
        self._group = waiting.run(lambda: self._connect(host), timeout_s, "meeting of the ranks")

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        """Replace `vector` by the sum of all ranks' vectors."""
        bound_s = timeout_s or self._timeout_s
        self._waiting.run(
            lambda: self._sum(vector, bound_s), bound_s if math.isfinite(bound_s) else None, "step"
        )

    def tell(self, note: str) -> None:
        """Leave a note for the other ranks, unless there is one."""
        self._waiting.run(lambda: self._store.compare_set(_NOTE, "", note), _NOTE_S, "note")

    def note(self) -> str:
        """Return the note."""
        return self._waiting.run(lambda: str(self._store.get(_NOTE), "utf-8"), _NOTE_S, "note")

    def _connect(self, host: str) -> Any:
        # Not `init_process_group`: it knows one group per process, and takes the interface from the environment.
        store = c10d.PrefixStore("gloo", self._store)
        return gloo_group(store, self.rank, self.size, host, self._timeout_s)

    def _sum(self, vector: torch.Tensor, timeout_s: float) -> None:
        options = c10d.AllreduceOptions()
        # gloo breaks its connections when a sum is not done in the time of the group, unless it is given a longer one.
        options.timeout = timedelta(seconds=min(max(timeout_s, self._timeout_s), _LONGEST_S))
        try:
            self._group.allreduce([vector], options).wait()
        except RuntimeError as error:
            raise lost(error) from error


def gloo_group(store: Store, rank: int, size: int, host: str, timeout_s: float) -> Any:
    """Connect a rank with all others, over the interface of `host`.

    Raises:
        Unavailable: A rank went away meanwhile.
    """
    gloo = c10d.ProcessGroupGloo
    options = gloo._Options()  # noqa: SLF001 - the only way to name the interface and a timeout
    options._devices = [gloo.create_device(hostname=host)]  # noqa: SLF001 - likewise
    options._timeout = timedelta(seconds=timeout_s)  # noqa: SLF001 - likewise
    try:
        return gloo(store, rank, size, options)
    except RuntimeError as error:
        raise lost(error) from error


class Alone:
    """The group of a run with one rank."""

    rank, size = 0, 1

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:
        """Leave `vector` as it is: it is the sum."""

    def tell(self, note: str) -> None:
        """Do nothing: nobody reads it."""

    def note(self) -> str:
        """Return nothing."""
        return ""


def lost(error: RuntimeError) -> Unavailable:
    """Say that torch could not reach another rank."""
    why = str(error).split("\n", 1)[0]
    return Unavailable(f"lost touch with another rank, whose own task or node says why: {why}")
