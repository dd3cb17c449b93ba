"""The ranks of a fully sharded run: torch's default group, which FSDP2 communicates over, and how they hear of each other's failures.

Collectives happen wherever the model computes, so a rank that fails cannot take part in the next one to say so. It leaves a note in the
store instead, which all ranks look at now and then, and whenever a collective fails.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch

from headrace.errors import Cancelled, HeadraceError, Unavailable
from headrace_training.core.device import Device
from headrace_training.core.fully_sharded import FullySharded
from headrace_training.core.group import WITHDRAW_S, error_of, note_of
from headrace_training.core.placement import shared_backend
from headrace_training.gloo import Store, c10d, gloo_group, lost
from headrace_training.interruption import Interruptible

Result = TypeVar("Result")

_BACKEND = "headrace"
_NOTE, _HEARD, _TOLD = "note", "heard", "told"
_LOOK_S = 0.25  # between two looks for a note


class ShardedGroup:
    """One rank's part in torch's default group; there is one in a process.

    Args:
        store: Where the ranks find each other and leave notes; kept by rank 0.
        host: The address of this machine that the others reach.
        timeout_s: Bound of every collective.
        device: What this rank computes on.
    Raises:
        Unavailable: A rank went away meanwhile.
        FailedPrecondition: Some ranks have a GPU, and not each has one of its own.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        host: str,
        timeout_s: float,
        watch: "Watch",
        device: Device,
    ) -> None:
        self.rank, self.size = rank, size
        device.use()  # each thread has one of its own
        gpus = shared_backend(_marks(store, rank, size, device)) == "nccl"

        def connect(prefixed: Store, rank: int, size: int, timeout: timedelta) -> Any:
            return gloo_group(prefixed, rank, size, host, timeout.total_seconds())

        if _BACKEND not in c10d.Backend.backend_list:
            c10d.Backend.register_backend(_BACKEND, connect, devices=["cpu"])
        c10d.init_process_group(
            f"cpu:{_BACKEND},cuda:nccl" if gpus else f"cpu:{_BACKEND}",
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_s),
            device_id=device.place if gpus else None,
        )
        watch.begin(store, rank, size)

    def sum(self, vector: torch.Tensor, timeout_s: float | None = None) -> None:  # noqa: ARG002 - all have one bound
        """Replace `vector` by the sum of all ranks' vectors."""
        c10d.all_reduce(vector)


def _marks(store: Store, rank: int, size: int, device: Device) -> list[int]:
    """Tell the other ranks what this one computes on, and return what each does: by the store, since it decides how they connect."""
    try:
        store.set(f"device/{rank}", str(device.mark))
        return [int(store.get(f"device/{each}")) for each in range(size)]
    except RuntimeError as error:
        raise lost(error) from error


class Watch:
    """Lets a rank work until it is done, asked to stop, or another rank has failed."""

    def __init__(self, waiting: Interruptible) -> None:
        self._waiting = waiting
        self._store: Store = None
        self._rank, self._size = 0, 1
        self._heard = False
        self._over = threading.Event()

    def begin(self, store: Store, rank: int, size: int) -> None:
        """Look for notes in the store from now on."""
        self._store, self._rank, self._size = store, rank, size
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def run(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns.

        Raises:
            HeadraceError: What another rank has failed with, or `Unavailable` if it is gone without a word.
            Cancelled: The rank was asked to stop.
        """
        try:
            return self._waiting.run(work, None, "run")
        except Exception as error:
            raised = self._explained(error)
            if not isinstance(raised, Cancelled):
                self._tell(raised)
            raise raised from error
        finally:
            self._over.set()

    def told(self, words: str) -> str:
        """Return what rank 0 says; called once, by all ranks."""
        if self._rank == 0:
            self._store.set(_TOLD, words)
            return words
        return str(self._store.get(_TOLD), "utf-8")

    def _look(self) -> None:
        with contextlib.suppress(
            RuntimeError
        ):  # the store is gone, and rank 0 with it: a collective will say so
            while not self._over.wait(_LOOK_S):
                if self._store.check([_NOTE]):
                    self._waiting.stop(self._read())
                    return

    def _read(self) -> HeadraceError:
        self._heard = True
        return error_of(str(self._store.get(_NOTE), "utf-8"))

    def _explained(self, error: Exception) -> Exception:
        """Return why a collective failed, if that is what happened."""
        of_gloo = isinstance(error, RuntimeError) and "gloo" in str(error)
        if not of_gloo and not isinstance(
            error, c10d.DistError
        ):  # NCCL, and the store, have errors of their own
            return error
        with contextlib.suppress(RuntimeError):
            if self._store.check([_NOTE]):
                return self._read()
        why = str(error).split("\n", 1)[0]
        return Unavailable(f"lost touch with another rank, whose own task or node says why: {why}")

    def _tell(self, error: Exception) -> None:
        """Leave a note, unless there is one; rank 0, which keeps the store, goes last."""
        if self._store is None or self._size == 1:
            return
        with contextlib.suppress(RuntimeError):  # rank 0 is gone, and needs not know
            if not self._heard and not isinstance(error, Unavailable):
                self._store.compare_set(_NOTE, "", note_of(self._rank, error))
            if isinstance(error, Unavailable) and not self._heard:
                return
            self._store.add(_HEARD, 1)
            deadline = time.monotonic() + WITHDRAW_S
            while self._rank == 0 and time.monotonic() < deadline and self._store.add(_HEARD, 0) < self._size:
                time.sleep(_LOOK_S / 5)


class WatchedTeam(FullySharded):
    """Ranks that hold a part each, and hear of each other's failures.

    Args:
        watch: What all of this rank's work runs in.
        parts: As for `FullySharded`.
    """

    def __init__(self, watch: Watch, *parts: Any) -> None:
        super().__init__(*parts)
        self.watch = watch

    def told(self, words: str) -> str:
        """Return what rank 0 says; called once, by all ranks."""
        return self.watch.told(words)
