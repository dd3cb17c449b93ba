"""A job with replicas on the wire: what its nodes are told, and how its workers find where a shard is."""

from headrace.parameters.v1 import stores_pb2
from headrace.parameters.v1.assignment_pb2 import STORE_ROLE_PRIMARY, STORE_ROLE_REPLICA, Assignment
from headrace.scheduler.v1 import jobs_pb2
from headrace.training.v1 import workers_pb2
from headrace_training.shard_finder import ShardFinder
from tests.services.scheduler.fake_nodes import Nodes
from tests.services.scheduler.scheduler_server import PROJECT, Scheduler, train_spec

TASK = f"{PROJECT}/tasks/a-1-train-0"
STORE = f"{PROJECT}/stores/a"


def test_each_shard_is_made_twice_and_the_worker_can_ask_where_it_is(
    scheduler: Scheduler, nodes: Nodes
) -> None:
    shards = {
        node.address: node for node in (nodes.parameters(f"parameters-{number}") for number in range(4))
    }
    worker = nodes.training("training-0")
    spec = train_spec(shards=2)
    spec.durability = stores_pb2.DURABILITY_REPLICA
    request = jobs_pb2.CreateJobRequest(parent=PROJECT, job_id="a", job=jobs_pb2.Job(train=spec))
    scheduler.jobs.CreateJob(request)
    worker.wait_for(lambda node: TASK in node.tasks)

    start = worker.starts[TASK]
    assert isinstance(start, workers_pb2.StartTaskRequest)
    for shard, (primary, replica) in enumerate(zip(start.shards, start.replicas, strict=True)):
        made = [shards[address].stores[STORE] for address in (primary, replica)]
        assert [store.shard_index for store in made] == [shard, shard]
        assert [store.assignment for store in made] == [
            Assignment(term=1, role=STORE_ROLE_PRIMARY, replica=replica),
            Assignment(term=1, role=STORE_ROLE_REPLICA),
        ]
        assert ShardFinder(scheduler.address, start.job, 1)(shard) == [primary, replica]
    assert ShardFinder(scheduler.address, start.job, 2)(0) == (), "of another attempt"
    assert ShardFinder(scheduler.address, f"{PROJECT}/jobs/b", 1)(0) == ()
