"""Pools, nodes and their leases through a real scheduler."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.errors import (
    AlreadyExists,
    FailedPrecondition,
    HeadraceError,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    StaleEpoch,
)
from headrace.scheduler.v1 import cluster_pb2, jobs_pb2, nodes_pb2
from tests.services.scheduler.fake_nodes import Nodes
from tests.services.scheduler.scheduler_server import LEASE_S, PROJECT, WAIT_S, Scheduler, scheduler_server

HELLO = nodes_pb2.Hello(
    node="nodes/raw", incarnation="i1", kind=nodes_pb2.NODE_KIND_TRAINING, address="127.0.0.1:1", slots=1
)


class RawNode:
    """An Attach call whose every message the test sends."""

    def __init__(self, scheduler: Scheduler, hello: nodes_pb2.Hello = HELLO) -> None:
        self._messages: list[nodes_pb2.AttachRequest] = []
        self._news = threading.Condition()
        self.send(nodes_pb2.AttachRequest(hello=hello))
        self.call = scheduler.nodes.Attach(self._requests(), timeout=WAIT_S)

    def send(self, message: nodes_pb2.AttachRequest) -> None:
        with self._news:
            self._messages.append(message)
            self._news.notify_all()

    def _requests(self) -> Iterator[nodes_pb2.AttachRequest]:
        while True:
            with self._news:
                if not self._news.wait_for(lambda: self._messages, WAIT_S):
                    return
                message = self._messages.pop(0)
            yield message

    def report(self, **values: object) -> nodes_pb2.Notice:
        self.send(nodes_pb2.AttachRequest(report=nodes_pb2.Report(**values)))  # type: ignore[arg-type]  # fields by name
        return next(self.call).notice


def get(scheduler: Scheduler, node: str) -> cluster_pb2.Node:
    return scheduler.cluster.GetNode(cluster_pb2.GetNodeRequest(name=f"nodes/{node}"))


def wait_for_node_state(scheduler: Scheduler, node: str, state: cluster_pb2.NodeState.ValueType) -> None:
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.02)):
        if get(scheduler, node).state == state:
            return
        pause.wait(0.02)
    raise AssertionError(get(scheduler, node))


def test_the_cluster_says_where_the_registry_is(scheduler: Scheduler, registry: str) -> None:
    info = scheduler.cluster.GetCluster(cluster_pb2.GetClusterRequest())
    assert info.registry_address == registry
    assert info.server_version


def test_an_attached_node_is_listed_with_what_it_has(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters()
    worker = nodes.training("training-0", slots=2)
    scheduler.train("a")
    worker.wait_for(lambda node: bool(node.tasks))
    node = get(scheduler, "training-0")
    assert (node.kind, node.pool, node.address) == (
        nodes_pb2.NODE_KIND_TRAINING,
        "pools/default",
        worker.address,
    )
    assert (node.state, node.slots, list(node.work)) == (
        cluster_pb2.NODE_STATE_READY,
        2,
        [f"{PROJECT}/tasks/a-1-train-0"],
    )
    listed = scheduler.cluster.ListNodes(cluster_pb2.ListNodesRequest(page_size=1))
    assert [node.name for node in listed.nodes] == ["nodes/parameters-0"]
    assert listed.next_page_token


def test_a_drained_node_gets_no_work_until_it_is_resumed(scheduler: Scheduler, nodes: Nodes) -> None:
    nodes.parameters()
    worker = nodes.training()
    drained = scheduler.cluster.DrainNode(cluster_pb2.DrainNodeRequest(name="nodes/training-0"))
    assert drained.state == cluster_pb2.NODE_STATE_DRAINING
    assert scheduler.train("a").state == jobs_pb2.JOB_STATE_QUEUED
    explained = scheduler.jobs.ExplainJob(jobs_pb2.ExplainJobRequest(name=f"{PROJECT}/jobs/a"))
    assert list(explained.conditions[-1].reasons) == ["1 draining"]
    resumed = scheduler.cluster.ResumeNode(cluster_pb2.ResumeNodeRequest(name="nodes/training-0"))
    assert resumed.state == cluster_pb2.NODE_STATE_READY
    worker.wait_for(lambda node: bool(node.tasks))


def test_a_node_frozen_in_the_middle_of_a_call_gives_its_work_back_with_its_lease(
    scheduler: Scheduler, nodes: Nodes
) -> None:
    nodes.parameters()
    frozen = nodes.training("training-0")
    frozen.hang.clear()
    scheduler.train("a")
    frozen.wait_for(lambda node: bool(node.calls))
    other = nodes.training("training-1")
    assert frozen.agent
    frozen.agent.close()
    other.wait_for(lambda node: f"{PROJECT}/tasks/a-2-train-0" in node.tasks)
    frozen.hang.set()


def test_every_report_is_answered_and_silence_ends_the_lease(scheduler: Scheduler) -> None:
    node = RawNode(scheduler)
    assert next(node.call).welcome.lease.ToTimedelta().total_seconds() == LEASE_S
    assert node.report() == nodes_pb2.Notice()
    assert get(scheduler, "raw").state == cluster_pb2.NODE_STATE_READY
    wait_for_node_state(
        scheduler, "raw", cluster_pb2.NODE_STATE_LOST
    )  # frozen: the call is open, nothing comes
    with pytest.raises(StaleEpoch, match="attach again"):
        node.report()
    again = RawNode(scheduler)
    next(again.call)
    assert get(scheduler, "raw").state == cluster_pb2.NODE_STATE_READY
    again.call.cancel()


def test_a_new_process_takes_over_and_the_old_one_cannot_come_back(scheduler: Scheduler) -> None:
    old = RawNode(scheduler)
    next(old.call)
    second = nodes_pb2.Hello()
    second.CopyFrom(HELLO)
    second.incarnation = "i2"
    new = RawNode(scheduler, second)
    next(new.call)
    assert get(scheduler, "raw").incarnation == "i2"
    thawed = RawNode(scheduler)
    with pytest.raises(StaleEpoch, match="newer process"):
        next(thawed.call)
    new.call.cancel()


def test_a_second_call_of_the_same_process_replaces_the_first(scheduler: Scheduler) -> None:
    first = RawNode(scheduler)
    next(first.call)
    second = RawNode(scheduler)
    next(second.call)
    with pytest.raises(HeadraceError):
        first.report()
    second.report()
    assert get(scheduler, "raw").state == cluster_pb2.NODE_STATE_READY
    second.call.cancel()


def test_a_node_that_leaves_is_lost_with_its_call(scheduler: Scheduler, nodes: Nodes) -> None:
    node = nodes.training()
    assert node.agent
    assert node.agent.leaving()
    assert get(scheduler, "training-0").state == cluster_pb2.NODE_STATE_DRAINING
    nodes.kill("training-0")
    wait_for_node_state(scheduler, "training-0", cluster_pb2.NODE_STATE_LOST)


def test_a_node_of_an_unknown_pool_or_without_a_hello_is_refused(scheduler: Scheduler) -> None:
    hello = nodes_pb2.Hello()
    hello.CopyFrom(HELLO)
    hello.pool = "pools/gpu"
    with pytest.raises(NotFound, match="pools/gpu"):
        next(RawNode(scheduler, hello).call)
    with pytest.raises(InvalidArgument, match="hello"):
        next(scheduler.nodes.Attach(iter([nodes_pb2.AttachRequest()]), timeout=5))
    with pytest.raises(NotFound):
        get(scheduler, "raw")


def test_nodes_are_bounded(tmp_path: Path) -> None:
    with scheduler_server(tmp_path, max_nodes=1) as scheduler:
        first = RawNode(scheduler)
        next(first.call)
        hello = nodes_pb2.Hello()
        hello.CopyFrom(HELLO)
        hello.node = "nodes/other"
        with pytest.raises(ResourceExhausted, match="HEADRACE_SCHEDULER_MAX_NODES"):
            next(RawNode(scheduler, hello).call)
        first.call.cancel()


def test_pools_are_made_listed_and_deleted_when_nobody_uses_them(scheduler: Scheduler) -> None:
    cluster = scheduler.cluster
    make = cluster_pb2.CreatePoolRequest(
        pool_id="gpu", pool=cluster_pb2.Pool(description="fast"), request_id="r"
    )
    made = cluster.CreatePool(make)
    assert cluster.CreatePool(make) == made
    with pytest.raises(AlreadyExists):
        cluster.CreatePool(cluster_pb2.CreatePoolRequest(pool_id="gpu"))
    names = [pool.name for pool in cluster.ListPools(cluster_pb2.ListPoolsRequest()).pools]
    assert names == ["pools/default", "pools/gpu"]
    scheduler.train("a", pool="pools/gpu")
    delete = cluster_pb2.DeletePoolRequest(name="pools/gpu")
    with pytest.raises(FailedPrecondition, match=r"used by projects/default/jobs/a"):
        cluster.DeletePool(delete)
    scheduler.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=f"{PROJECT}/jobs/a"))
    cluster.DeletePool(delete)
    with pytest.raises(NotFound):
        cluster.GetPool(cluster_pb2.GetPoolRequest(name="pools/gpu"))
    with pytest.raises(FailedPrecondition, match="always there"):
        cluster.DeletePool(cluster_pb2.DeletePoolRequest(name="pools/default"))
