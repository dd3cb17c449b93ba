"""Requests about jobs: what is refused, repeated, listed and watched."""

import pytest

from headrace.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RequestIdReused,
    ResourceExhausted,
)
from headrace.optimization.v1 import optimizer_pb2
from headrace.parameters.v1 import stores_pb2
from headrace.scheduler.v1 import jobs_pb2
from headrace.training.v1 import workers_pb2
from tests.services.scheduler.scheduler_server import PROJECT, Scheduler, train_spec

TASK = f"{PROJECT}/tasks/a-1-train-0"
STORE = f"{PROJECT}/stores/a"


def test_defaults_are_filled_in(scheduler: Scheduler) -> None:
    spec = train_spec()
    spec.ClearField("workers")
    spec.ClearField("shards")
    request = jobs_pb2.CreateJobRequest(parent=PROJECT, job=jobs_pb2.Job(train=spec))
    job = scheduler.jobs.CreateJob(request)
    assert (job.train.workers, job.train.shards, job.pool, job.max_attempts) == (1, 1, "pools/default", 5)
    assert job.train.optimizer.adamw.learning_rate == 1e-3
    assert job.train.consistency == stores_pb2.CONSISTENCY_BSP
    assert job.train.strategy == workers_pb2.STRATEGY_PARAMETER_SERVER
    assert job.name.startswith(f"{PROJECT}/jobs/train-")


def test_a_job_by_all_reduce_has_no_shards(scheduler: Scheduler) -> None:
    spec = train_spec(shards=0)
    spec.strategy = workers_pb2.STRATEGY_ALL_REDUCE
    request = jobs_pb2.CreateJobRequest(parent=PROJECT, job=jobs_pb2.Job(train=spec))
    job = scheduler.jobs.CreateJob(request)
    assert (job.train.shards, job.train.consistency) == (0, stores_pb2.CONSISTENCY_BSP)


def test_deleting_is_for_final_jobs(scheduler: Scheduler) -> None:
    scheduler.train("a")
    delete = jobs_pb2.DeleteJobRequest(name=f"{PROJECT}/jobs/a")
    with pytest.raises(FailedPrecondition):
        scheduler.jobs.DeleteJob(delete)
    scheduler.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=delete.name))
    scheduler.jobs.DeleteJob(delete)
    with pytest.raises(NotFound):
        scheduler.get("a")
    with pytest.raises(NotFound):
        scheduler.jobs.DeleteJob(delete)
    assert scheduler.train("a").state == jobs_pb2.JOB_STATE_QUEUED


def test_a_request_that_comes_twice_makes_one_job(scheduler: Scheduler) -> None:
    first = scheduler.train(request_id="r1")
    assert scheduler.train(request_id="r1") == first
    assert len(scheduler.jobs.ListJobs(jobs_pb2.ListJobsRequest(parent=PROJECT)).jobs) == 1
    with pytest.raises(RequestIdReused):
        scheduler.train(request_id="r1", workers=2)


def test_a_request_id_is_bounded(scheduler: Scheduler) -> None:
    with pytest.raises(InvalidArgument, match="request_id has 129 characters"):
        scheduler.train(request_id="x" * 129)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (workers_pb2.TrainingOptions(steps=10, batch_size=8, threads=4_000_000_000), "threads"),
        (workers_pb2.TrainingOptions(steps=10, batch_size=4_000_000_000), "batch_size"),
        (workers_pb2.TrainingOptions(steps=1 << 63, batch_size=8), "steps"),
    ],
)
def test_a_training_that_no_machine_could_run_is_refused_at_once(
    scheduler: Scheduler, options: workers_pb2.TrainingOptions, field: str
) -> None:
    spec = train_spec()
    spec.options.CopyFrom(options)
    with pytest.raises(InvalidArgument, match="it must be ") as refused:
        scheduler.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, job=jobs_pb2.Job(train=spec)))
    assert refused.value.field == f"job.train.options.{field}"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (optimizer_pb2.OptimizationOptions(batch_sizes=[1025]), "batch_sizes"),
        (optimizer_pb2.OptimizationOptions(batch_sizes=[8, 8]), "batch_sizes"),
        (optimizer_pb2.OptimizationOptions(precisions=[optimizer_pb2.PRECISION_UNSPECIFIED]), "precisions"),
        (optimizer_pb2.OptimizationOptions(objective=optimizer_pb2.Objective.ValueType(7)), "objective"),
        (optimizer_pb2.OptimizationOptions(calibration_examples=100_001), "calibration_examples"),
        (optimizer_pb2.OptimizationOptions(gates=optimizer_pb2.Gates(max_bytes=0)), "gates.max_bytes"),
        (optimizer_pb2.OptimizationOptions(gates=optimizer_pb2.Gates(min_speedup=0)), "gates.min_speedup"),
    ],
)
def test_an_optimization_that_no_node_would_take_is_refused_at_once(
    scheduler: Scheduler, options: optimizer_pb2.OptimizationOptions, field: str
) -> None:
    spec = jobs_pb2.OptimizeSpec(version=f"{PROJECT}/models/digits/versions/1", options=options)
    with pytest.raises(InvalidArgument) as refused:
        scheduler.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, job=jobs_pb2.Job(optimize=spec)))
    assert refused.value.field == f"job.optimize.options.{field}"


def test_a_name_is_taken_even_when_its_job_is_over(scheduler: Scheduler) -> None:
    scheduler.train("a")
    with pytest.raises(AlreadyExists):
        scheduler.train("a")
    scheduler.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=f"{PROJECT}/jobs/a"))
    with pytest.raises(AlreadyExists):
        scheduler.train("a")


def test_jobs_are_listed_newest_first_in_pages(scheduler: Scheduler) -> None:
    for number in range(5):
        scheduler.train(f"job{number}")
    seen, token = [], ""
    while True:
        request = jobs_pb2.ListJobsRequest(parent=PROJECT, page_size=2, page_token=token)
        page = scheduler.jobs.ListJobs(request)
        seen += [job.name.rsplit("/", 1)[1] for job in page.jobs]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"job{number}" for number in reversed(range(5))]
    assert not scheduler.jobs.ListJobs(jobs_pb2.ListJobsRequest(parent="projects/other")).jobs


def test_a_watch_that_knows_the_newest_revision_waits_for_the_next(scheduler: Scheduler) -> None:
    job = scheduler.train("a")
    watch = scheduler.jobs.WatchJob(
        jobs_pb2.WatchJobRequest(name=job.name, after_revision=job.revision), timeout=10
    )
    scheduler.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=job.name))
    states = [response.job.state for response in watch]
    assert states == [jobs_pb2.JOB_STATE_CANCELLED]
    final = scheduler.get("a")
    again = jobs_pb2.WatchJobRequest(name=job.name, after_revision=final.revision)
    assert not list(scheduler.jobs.WatchJob(again, timeout=10))


def test_watches_are_bounded_and_give_their_place_back(scheduler: Scheduler) -> None:
    scheduler.train("a")
    request = jobs_pb2.WatchJobRequest(name=f"{PROJECT}/jobs/a")
    watches = [scheduler.jobs.WatchJob(request, timeout=20) for _ in range(8)]
    for watch in watches:
        next(watch)
    with pytest.raises(ResourceExhausted, match="as many callers watch"):
        next(scheduler.jobs.WatchJob(request, timeout=20))
    for watch in watches:
        watch.cancel()
    scheduler.jobs.CancelJob(jobs_pb2.CancelJobRequest(name=f"{PROJECT}/jobs/a"))
    scheduler.wait_for_state("a", "CANCELLED")


def test_other_bad_requests_are_refused(scheduler: Scheduler) -> None:
    with pytest.raises(InvalidArgument, match="no specification"):
        scheduler.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT))
    with pytest.raises(InvalidArgument, match="longer than 40"):
        scheduler.train("x" * 41)
    with pytest.raises(InvalidArgument, match="max_attempts"):
        scheduler.train(max_attempts=101)
    with pytest.raises(NotFound, match="pools/gpu"):
        scheduler.train(pool="pools/gpu")
    job = jobs_pb2.Job(optimize=jobs_pb2.OptimizeSpec(version=f"{PROJECT}/models/digits"))
    with pytest.raises(InvalidArgument, match="name a version"):
        scheduler.jobs.CreateJob(jobs_pb2.CreateJobRequest(parent=PROJECT, job=job))
