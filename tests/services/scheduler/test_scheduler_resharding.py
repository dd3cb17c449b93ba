"""Asking for another number of shards: what is taken, and what is refused with the reason."""

import pytest

from headrace.errors import FailedPrecondition, InvalidArgument, NotFound
from headrace.parameters.v1 import stores_pb2
from headrace.scheduler.v1 import jobs_pb2
from headrace.training.v1 import workers_pb2
from tests.services.scheduler.fake_nodes import Nodes
from tests.services.scheduler.scheduler_server import PROJECT, Scheduler, train_spec

DISK = stores_pb2.DURABILITY_DISK


def create(scheduler: Scheduler, **changes: object) -> None:
    spec = train_spec(shards=0)
    spec.MergeFrom(jobs_pb2.TrainSpec(**changes))  # type: ignore[arg-type]  # named by each test
    request = jobs_pb2.CreateJobRequest(parent=PROJECT, job_id="a", job=jobs_pb2.Job(train=spec))
    scheduler.jobs.CreateJob(request)


def reshard(scheduler: Scheduler, shards: int, job: str = "a") -> jobs_pb2.Job:
    return scheduler.jobs.ReshardJob(jobs_pb2.ReshardJobRequest(name=f"{PROJECT}/jobs/{job}", shards=shards))


def test_a_job_that_waits_begins_with_the_shards_it_was_told_last(scheduler: Scheduler, nodes: Nodes) -> None:
    create(scheduler)

    job = reshard(scheduler, 2)

    assert (job.train.shards, job.shards, job.message) == (2, 0, "queued; will have 2 shards")
    assert reshard(scheduler, 2).revision == job.revision, "a repeat changes nothing"
    first, second = nodes.parameters("parameters-0"), nodes.parameters("parameters-1")
    nodes.training()
    for node in (first, second):
        node.wait_for(lambda node: bool(node.stores))
    assert scheduler.get("a").shards == 2


def test_a_number_that_no_such_job_can_have_is_refused(scheduler: Scheduler) -> None:
    optimizer = stores_pb2.Optimizer(lamb=stores_pb2.Lamb(learning_rate=1))
    create(scheduler, consistency=stores_pb2.CONSISTENCY_ASYNC, optimizer=optimizer)

    for shards, field in ((0, "shards"), (2000, "shards"), (2, "job.train.shards")):
        with pytest.raises(InvalidArgument) as refused:
            reshard(scheduler, shards)
        assert refused.value.field == field
    assert scheduler.get("a").train.shards == 1


def test_what_has_no_shards_or_has_ended_is_refused(scheduler: Scheduler) -> None:
    with pytest.raises(NotFound):
        reshard(scheduler, 2, job="absent")
    create(scheduler, strategy=workers_pb2.STRATEGY_ALL_REDUCE)
    with pytest.raises(FailedPrecondition, match="keeps its parameters in no shards"):
        reshard(scheduler, 2)
    scheduler.train("b")
    scheduler.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=f"{PROJECT}/jobs/b"))
    with pytest.raises(FailedPrecondition, match="has ended"):
        reshard(scheduler, 2, job="b")
