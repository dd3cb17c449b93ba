"""What a parameter node says of its stores at every heartbeat, as the scheduler reads it."""

from datetime import UTC, datetime

import pytest

from headrace.errors import Unavailable
from headrace.names import StoreName
from headrace_optimizers.config import Sgd
from headrace_parameters import node_report
from headrace_parameters.core.config import Consistency, Durability, StoreConfig
from headrace_parameters.core.tenure import Assignment, Role
from headrace_parameters.replicated_store import ReplicatedStore
from headrace_scheduler.core.events import SilentReplica
from headrace_scheduler.core.nodes import Node, NodeKind
from headrace_scheduler.wire import read_report

NODE = Node("nodes/p", NodeKind.PARAMETERS, "pools/default", "p:1", 1, "one", 0.0)


def store(assignment: Assignment) -> ReplicatedStore:
    """Return a shard that sends nothing to its replica: it is not open yet."""
    config = StoreConfig(
        name=StoreName("default", "run"),
        epoch=3,
        shard_index=1,
        shard_count=2,
        worker_count=1,
        consistency=Consistency.BSP,
        optimizer=Sgd(0.1),
        durability=Durability.REPLICA,
        assignment=assignment,
    )
    return ReplicatedStore(config, datetime.now(UTC))


def heard_of(*stores: ReplicatedStore) -> tuple[SilentReplica, ...]:
    return read_report(NODE, node_report.report_of(stores)).silent_replicas


def test_a_replica_of_which_its_primary_hears_nothing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    primary = store(Assignment(4, Role.PRIMARY, "r:2"))
    primary.replicated.disconnected(4, Unavailable("no route"))
    assert heard_of(primary) == (), "it may answer in a moment"

    monkeypatch.setattr(node_report, "CONFIRM_S", 0.0)
    (silent,) = heard_of(primary, store(Assignment(4, Role.REPLICA)), store(Assignment(4, Role.PRIMARY)))

    facts = silent.store, silent.epoch, silent.index, silent.term, silent.address, silent.why
    assert facts == ("projects/default/stores/run", 3, 1, 4, "r:2", "no route")
    assert silent.silence_s > 0
