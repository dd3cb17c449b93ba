"""Stores that a former process has left, as they live on in this one."""

from collections.abc import Callable
from dataclasses import dataclass

from headrace_parameters.journal.finished_file import is_finished
from headrace_parameters.journal.shelf import Found
from headrace_parameters.journal.tenure_file import read_tenure
from headrace_parameters.live import LiveStore
from headrace_parameters.replicated_store import ReplicatedStore


@dataclass(frozen=True)
class InDoubt:
    """A recovered store that does not know whether its next shard map holds, and its next self if so."""

    store: LiveStore
    following: Found


def recovered(
    found: Found, reserve_rows: Callable[[str, int], None], beside: LiveStore | None = None
) -> LiveStore:
    """Make a store of what was found: one whose run is over stays over, one with a replica waits until it is told what it is.

    Args:
        reserve_rows: As for `LiveStore`, from now on: what is there was within the bounds of its time.
        beside: What was found with it, and whose place it may take.
    """
    state = found.shard, found.journal, found.memory
    parts = found.config, found.create_time, *state, reserve_rows, found.tables
    if isinstance(beside, ReplicatedStore):
        return ReplicatedStore(*parts, beside=beside)
    if found.config.durability.replicated:
        return ReplicatedStore(*parts, tenure=read_tenure(found.journal).restarted())
    store = LiveStore(*parts)
    if is_finished(found.journal):
        store.end_run()
    return store
