"""What a worker learns of the best values when it takes the lead from another one."""

import grpc

from headrace.errors import NotFound
from headrace.scheduler.v1 import jobs_pb2
from headrace.testing import free_port
from headrace.testing.server import handler, serve
from headrace.training.v1.workers_pb2 import StartTaskRequest
from headrace.types.v1 import task_pb2
from headrace_training.best_values import BestValues
from headrace_training.core.selection import Best

JOB = "projects/default/jobs/a"
OLD = task_pb2.Best(step=10, metric="accuracy", value=0.5, artifact=f"projects/default/artifacts/{'0' * 64}")
NEW = task_pb2.Best(step=30, metric="accuracy", value=0.9, artifact=f"projects/default/artifacts/{'1' * 64}")
GET_JOB = "headrace.scheduler.v1.Jobs/GetJob"


def request(job: str = JOB) -> StartTaskRequest:
    return StartTaskRequest(name="projects/default/tasks/a-1-train-1", job=job, best=OLD)


def test_it_is_what_the_scheduler_knows_of_the_job() -> None:
    def get_job(asked: jobs_pb2.GetJobRequest, context: grpc.ServicerContext) -> jobs_pb2.Job:
        return jobs_pb2.Job(name=asked.name, best=NEW)

    with serve(handler(GET_JOB, get_job)) as channel:
        values = BestValues(None, request(), channel.address)
        assert values.of_run() == Best(30, "accuracy", 0.9)


def test_without_a_scheduler_or_a_job_it_is_what_the_worker_began_with() -> None:
    def no_job(asked: jobs_pb2.GetJobRequest, context: grpc.ServicerContext) -> jobs_pb2.Job:
        raise NotFound(f"there is no {asked.name}")

    began = Best(10, "accuracy", 0.5)
    with serve(handler(GET_JOB, no_job)) as channel:
        assert BestValues(None, request(), channel.address).of_run() == began
    assert BestValues(None, request(job="")).of_run() == began
    assert BestValues(None, request(), f"127.0.0.1:{free_port()}").of_run() == began
