"""How work ended, as a return value or an error."""

import pytest

from headrace.client.outcome import is_final, serving, shortfall, succeeded
from headrace.errors import Cancelled, FailedPrecondition, HeadraceError, ProgramFailed
from headrace.scheduler.v1 import deployments_pb2 as deployments
from headrace.scheduler.v1 import jobs_pb2 as jobs
from headrace.types.v1.task_pb2 import Failure

NAME = "projects/default/jobs/run-1"


def test_only_three_states_are_final() -> None:
    final = [state for state in jobs.JobState.values() if is_final(jobs.Job(state=state))]

    assert final == [jobs.JOB_STATE_SUCCEEDED, jobs.JOB_STATE_FAILED, jobs.JOB_STATE_CANCELLED]


def test_a_job_that_succeeded_is_returned() -> None:
    job = jobs.Job(name=NAME, state=jobs.JOB_STATE_SUCCEEDED)

    assert succeeded(job) is job


def test_a_failed_job_raises_what_its_reason_stands_for() -> None:
    failure = Failure(reason="PROGRAM_FAILED", message="loss() raised ValueError", detail="line 1\nline 2")

    with pytest.raises(ProgramFailed, match=r"run-1 failed: loss\(\) raised") as raised:
        succeeded(jobs.Job(name=NAME, state=jobs.JOB_STATE_FAILED, failure=failure))

    assert raised.value.metadata == {"resource": NAME, "reason": "PROGRAM_FAILED", "detail": "line 1\nline 2"}


def test_a_reason_of_a_newer_server_is_still_an_error_of_ours() -> None:
    failure = Failure(reason="NOT_INVENTED_YET", message="no")

    with pytest.raises(HeadraceError) as raised:
        succeeded(jobs.Job(name=NAME, state=jobs.JOB_STATE_FAILED, failure=failure))

    assert type(raised.value) is FailedPrecondition


def test_a_cancelled_job_raises_cancelled() -> None:
    with pytest.raises(Cancelled, match="was cancelled"):
        succeeded(jobs.Job(name=NAME, state=jobs.JOB_STATE_CANCELLED))


def test_a_deployment_serves_when_it_is_ready() -> None:
    assert serving(deployments.Deployment(state=deployments.DEPLOYMENT_STATE_READY))
    assert not serving(deployments.Deployment(state=deployments.DEPLOYMENT_STATE_PROGRESSING))
    with pytest.raises(FailedPrecondition):
        serving(deployments.Deployment(state=deployments.DEPLOYMENT_STATE_FAILED))


@pytest.mark.parametrize(
    ("replicas", "ready", "said"),
    [
        (1, [], "0 of 1 replica is ready; no inference node has room for it in pools/default, start 1 more"),
        (
            3,
            [True],
            "1 of 3 replicas are ready; only 1 inference node has room for it in pools/default, start 2 more",
        ),
        (2, [True, False], "1 of 2 replicas are ready"),
    ],
)
def test_a_deployment_says_how_many_nodes_it_waits_for(replicas: int, ready: list[bool], said: str) -> None:
    deployment = deployments.Deployment(
        replicas=replicas,
        state=deployments.DEPLOYMENT_STATE_PROGRESSING,
        serving=[deployments.Replica(ready=one) for one in ready],
    )
    assert shortfall(deployment) == said
    deployment.state = deployments.DEPLOYMENT_STATE_READY
    assert shortfall(deployment) == ""
