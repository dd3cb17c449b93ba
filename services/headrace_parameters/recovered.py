"""Stores that a former process has left, as they live on in this one."""

from headrace_parameters.journal.finished_file import is_finished
from headrace_parameters.journal.shelf import Found
from headrace_parameters.journal.tenure_file import read_tenure
from headrace_parameters.live import LiveStore
from headrace_parameters.replicated_store import ReplicatedStore


def recovered(found: Found) -> LiveStore:
    """Make a store of what was found: one whose run is over stays over, one with a replica waits until it is told what it is."""
    parts = found.config, found.create_time, found.shard, found.journal, found.memory
    if found.config.durability.replicated:
        return ReplicatedStore(*parts, tenure=read_tenure(found.journal).restarted())
    store = LiveStore(*parts)
    if is_finished(found.journal):
        store.end_run()
    return store
