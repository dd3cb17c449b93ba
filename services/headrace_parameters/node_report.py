"""What a parameter node tells its scheduler at every heartbeat. A store is no task: the scheduler placed it and knows it."""

from collections.abc import Iterable, Iterator
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from headrace.scheduler.v1 import nodes_pb2
from headrace_parameters.core.tenure import Role
from headrace_parameters.live import LiveStore
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_parameters.replication.replicated import CONFIRM_S


def report_of(stores: Iterable[LiveStore]) -> nodes_pb2.Report:
    """Report the replicas of these stores of which nothing is heard; only the scheduler can give them up."""
    return nodes_pb2.Report(silent_replicas=_silent_replicas(stores))


def _silent_replicas(stores: Iterable[LiveStore]) -> Iterator[nodes_pb2.SilentReplica]:
    for store in stores:
        if not (isinstance(store, ReplicatedStore) and store.alive):
            continue
        tenure, silence_s = store.replicated.tenure, store.replicated.silence_s
        if tenure.role is Role.PRIMARY and tenure.replica and silence_s >= CONFIRM_S:
            silence = Duration()
            silence.FromTimedelta(timedelta(seconds=silence_s))
            yield nodes_pb2.SilentReplica(
                store=str(store.config.name),
                epoch=store.config.epoch,
                shard_index=store.config.shard_index,
                term=tenure.term,
                replica=tenure.replica,
                silence=silence,
                why=store.replicated.why,
            )
