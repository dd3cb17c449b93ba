"""Jobs on the wire."""

import uuid
from collections.abc import Iterator
from threading import BoundedSemaphore

import grpc
from google.protobuf.empty_pb2 import Empty

from headrace.names import JobName, ProjectName
from headrace.paging import PageRequest
from headrace.rpc.layers import current_call
from headrace.scheduler.v1 import jobs_pb2, jobs_pb2_grpc
from headrace_scheduler.core.events import JobResharded, JobSubmitted
from headrace_scheduler.engine import Engine, Repeatable
from headrace_scheduler.specs import check_shards, new_job
from headrace_scheduler.watches import watching
from headrace_scheduler.wire import condition_message, job_message


class JobsServicer(jobs_pb2_grpc.JobsServicer):
    """Translates; `watches` bounds the streams of this and the other servicers."""

    def __init__(self, engine: Engine, watches: BoundedSemaphore) -> None:
        self._engine = engine
        self._watches = watches

    def CreateJob(self, request: jobs_pb2.CreateJobRequest, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """Accept a job."""
        project = ProjectName.parse(request.parent, field="parent").project
        job_id = request.job_id or f"{request.job.WhichOneof('spec') or 'job'}-{uuid.uuid4().hex[:8]}"
        job = new_job(project, job_id, request.job, self._engine.now())
        answer = self._engine.request(
            JobSubmitted(job),
            Repeatable(
                "CreateJob", project, request.request_id, request.SerializeToString(deterministic=True)
            ),
            lambda tables: job_message(tables.jobs[job.name]).SerializeToString(),
        )
        return jobs_pb2.Job.FromString(answer)

    def GetJob(self, request: jobs_pb2.GetJobRequest, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """Return one job."""
        return job_message(self._engine.job(_name(request.name)))

    def ListJobs(
        self, request: jobs_pb2.ListJobsRequest, context: grpc.ServicerContext
    ) -> jobs_pb2.ListJobsResponse:
        """List jobs, newest first."""
        project = ProjectName.parse(request.parent, field="parent").project
        wanted = PageRequest.parse(request.page_size, request.page_token, "ListJobs", request.parent)
        rows = self._engine.list_jobs(project, wanted.after_number(), wanted.limit)
        page = wanted.page(rows, lambda job: (job.sequence,))
        return jobs_pb2.ListJobsResponse(
            jobs=[job_message(job) for job in page.items], next_page_token=page.next_page_token
        )

    def CancelJob(self, request: jobs_pb2.CancelJobRequest, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """Ask a job to end."""
        return job_message(self._engine.cancel_job(_name(request.name)))

    def ReshardJob(self, request: jobs_pb2.ReshardJobRequest, context: grpc.ServicerContext) -> jobs_pb2.Job:
        """Ask for another number of shards."""
        name = _name(request.name)
        check_shards(self._engine.job(name), request.shards)
        return job_message(self._engine.change_job(name, JobResharded(name, request.shards)))

    def DeleteJob(self, request: jobs_pb2.DeleteJobRequest, context: grpc.ServicerContext) -> Empty:
        """Forget a final job."""
        self._engine.delete_job(_name(request.name))
        return Empty()

    def WatchJob(
        self, request: jobs_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[jobs_pb2.WatchJobResponse]:
        """Stream a job's changes until it is final."""
        name, call = _name(request.name), current_call()
        with watching(self._watches, self._engine, call):
            for job in self._engine.follow(
                lambda: self._engine.job(name),
                request.after_revision,
                finished=lambda job: job.state.final,
                ended=lambda: call.ended,
            ):
                yield jobs_pb2.WatchJobResponse(job=job_message(job))

    def ExplainJob(
        self, request: jobs_pb2.ExplainJobRequest, context: grpc.ServicerContext
    ) -> jobs_pb2.ExplainJobResponse:
        """Say why a job waits."""
        summary, conditions = self._engine.explain(_name(request.name))
        return jobs_pb2.ExplainJobResponse(
            summary=summary, conditions=[condition_message(condition) for condition in conditions]
        )


def _name(name: str) -> str:
    return str(JobName.parse(name))
