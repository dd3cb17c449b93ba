"""Resources as people read them."""

from typing import Any

import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from headrace.cli.views import values
from headrace.cli.views.deployments import answer_json, answer_lines, deployed, deployments_table
from headrace.cli.views.jobs import explanation, job_facts, jobs_table, progress
from headrace.cli.views.models import files_table, models_table, version_facts, versions_table
from headrace.cli.views.nodes import nodes_table
from headrace.registry.v1 import models_pb2 as models
from headrace.scheduler.v1 import cluster_pb2, deployments_pb2, jobs_pb2, nodes_pb2
from headrace.types.v1 import task_pb2

VERSION = "projects/default/models/digits/versions/3"


def training(**fields: object) -> jobs_pb2.Job:
    train = jobs_pb2.TrainSpec(model="projects/default/models/digits")
    job = jobs_pb2.Job(name="projects/default/jobs/run-1", train=train, state=jobs_pb2.JOB_STATE_RUNNING)
    job.MergeFrom(jobs_pb2.Job(**fields))  # type: ignore[arg-type]  # the tests say fields by name
    return job


def test_a_running_job_is_one_line_with_stage_step_and_measures() -> None:
    metrics = {"samples_per_s": 1234.5, "loss": 0.21341, "accuracy": 0.95}
    job = training(progress=task_pb2.Progress(step=120, total_steps=400, stage="training", metrics=metrics))

    assert progress(job) == "training 120/400, loss 0.2134, accuracy 0.95, 1,234 samples/s"


def test_a_line_leaves_out_sizes_and_latencies_of_single_candidates() -> None:
    metrics = {"error": 0.5, "int8.error": 0.25, "int8.batch1.p50_ms": 1.0, "int8.size_bytes": 9.0}

    assert values.headline(metrics) == ["error 0.5", "int8.error 0.25"]


def test_a_message_that_begins_with_the_state_is_not_said_twice() -> None:
    assert progress(training(state=jobs_pb2.JOB_STATE_QUEUED, message="queued")) == "queued"
    assert progress(training(state=jobs_pb2.JOB_STATE_FAILED, message="failed: no")) == "failed: no"
    assert progress(training(state=jobs_pb2.JOB_STATE_QUEUED)) == "queued"


def test_a_waiting_job_is_one_line_with_what_it_waits_for() -> None:
    assert progress(training(state=jobs_pb2.JOB_STATE_QUEUED, message="waits for 2 training nodes")) == (
        "queued: waits for 2 training nodes"
    )


def test_the_list_of_jobs_has_a_row_for_each() -> None:
    failure = task_pb2.Failure(reason="PROGRAM_FAILED", message="loss() raised")
    failed = training(state=jobs_pb2.JOB_STATE_FAILED, failure=failure)
    result = task_pb2.TaskResult(version=VERSION, metrics={"accuracy": 0.98})
    optimize = jobs_pb2.OptimizeSpec(version="projects/default/models/digits@latest")
    done = jobs_pb2.Job(
        name="projects/default/jobs/opt-1",
        optimize=optimize,
        state=jobs_pb2.JOB_STATE_SUCCEEDED,
        result=result,
        start_time=Timestamp(seconds=100),
        end_time=Timestamp(seconds=112),
    )

    table = jobs_table([done, failed])

    assert [row[:4] for row in table.rows] == [
        ["opt-1", "optimize", "digits@latest", "succeeded"],
        ["run-1", "train", "digits", "failed"],
    ]
    assert table.rows[0][5] == "12.0 s"
    assert [row[-1] for row in table.rows] == ["digits/3, accuracy 0.98", "PROGRAM_FAILED: loss() raised"]


def test_an_empty_list_says_what_to_do() -> None:
    assert "headrace train --help" in jobs_table([]).empty
    assert "headrace up" in nodes_table([]).empty


def test_the_facts_of_a_job_hold_its_log_and_leave_out_what_is_unset() -> None:
    failure = task_pb2.Failure(reason="PROGRAM_FAILED", message="no", detail="line 1\nline 2")
    place = jobs_pb2.Placement(node="nodes/training-0", resource="projects/default/tasks/run-1-0")

    facts = job_facts(training(failure=failure, placements=[place], attempt=1)).rows

    assert ("placed", "run-1-0 on training-0") in facts
    assert [value for key, value in facts if key == "log"] == ["line 1", "line 2"]
    assert ("attempt", "1 of 5") in facts
    assert "checkpoint" not in {key for key, _ in facts}


def test_an_explanation_lists_the_conditions() -> None:
    condition = jobs_pb2.Condition(
        id="training nodes", needed=2, available=1, reasons=["1 draining", "1 busy"]
    )

    table = explanation(jobs_pb2.ExplainJobResponse(conditions=[condition]))

    assert table.rows == [["training nodes", "no", "2", "1", "1 draining; 1 busy"]]


def test_models_and_versions_show_their_aliases() -> None:
    model = models.Model(name="projects/default/models/digits", aliases={"stable": VERSION})
    version = models.Version(
        name=VERSION,
        source_version="projects/default/models/digits/versions/2",
        serving_file="int8.onnx",
        metrics={"accuracy": 0.98},
    )

    assert models_table([model]).rows[0][:2] == ["digits", "stable -> digits/3"]
    assert versions_table(model, [version]).rows[0][:5] == [
        "digits/3",
        "stable",
        "digits/2",
        "int8.onnx",
        "accuracy 0.98",
    ]


def test_a_version_shows_its_files_and_where_it_came_from() -> None:
    file = models.File(
        path="int8.onnx",
        role=models.FILE_ROLE_ONNX,
        size_bytes=12345,
        artifact=f"projects/default/artifacts/{'ab' * 32}",
    )
    version = models.Version(
        name=VERSION, files=[file], job="projects/default/jobs/opt-1", labels={"seed": "1"}
    )

    assert files_table(version).rows == [["int8.onnx", "onnx", "12.3 KB", "abababababab"]]
    assert ("made by", "projects/default/jobs/opt-1") in version_facts(version).rows
    assert ("seed", "1") in version_facts(version).rows


def test_a_node_shows_its_slots_and_its_work() -> None:
    node = cluster_pb2.Node(
        name="nodes/training-0",
        kind=nodes_pb2.NODE_KIND_TRAINING,
        state=cluster_pb2.NODE_STATE_READY,
        pool="pools/default",
        address="127.0.0.1:9000",
        slots=2,
        work=["projects/default/tasks/run-1-0"],
    )

    assert nodes_table([node]).rows[0][:7] == [
        "training-0",
        "training",
        "ready",
        "default",
        "127.0.0.1:9000",
        "1/2",
        "run-1-0",
    ]


def test_a_deployment_shows_its_ready_replicas() -> None:
    deployment = deployments_pb2.Deployment(
        name="projects/default/deployments/digits",
        version="projects/default/models/digits@stable",
        resolved_version=VERSION,
        replicas=2,
        state=deployments_pb2.DEPLOYMENT_STATE_PROGRESSING,
        serving=[
            deployments_pb2.Replica(address="a:1", ready=True),
            deployments_pb2.Replica(address="b:1"),
        ],
    )

    assert deployments_table([deployment]).rows == [
        ["digits", "digits/3", "-", "progressing", "1/2", "a:1", "1 of 2 replicas are ready"]
    ]
    assert deployed(deployment) == "digits serves digits/3 at a:1"


def test_a_deployment_without_a_ready_replica_is_not_said_to_serve() -> None:
    deployment = deployments_pb2.Deployment(
        name="projects/default/deployments/digits",
        version=VERSION,
        state=deployments_pb2.DEPLOYMENT_STATE_PROGRESSING,
    )

    assert deployed(deployment) == "digits will serve digits/3; it is progressing"


def test_an_answer_says_type_and_shape_and_as_json_everything() -> None:
    outputs: dict[str, np.ndarray[Any, Any]] = {
        "logits": np.array([[1.5, np.nan]], np.float32),
        "label": np.array([1], np.int64),
        "text": np.array([b"a", b"\xff"], object),
    }

    assert answer_lines({"logits": outputs["logits"]})[0] == "logits: float32 [1, 2]"
    assert answer_json(outputs) == {
        "logits": {"datatype": "float32", "shape": [1, 2], "data": [[1.5, "NaN"]]},
        "label": {"datatype": "int64", "shape": [1], "data": [1]},
        "text": {"datatype": "object", "shape": [2], "data": ["a", "\ufffd"]},
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.24, "3.2 s"), (59.94, "59.9 s"), (250, "4 min 10 s"), (7500, "2 h 5 min")]
)
def test_time_spans_are_said_in_units_that_suit_them(seconds: float, text: str) -> None:
    assert values.duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 KB"), (2_500_000_000, "2.5 GB")]
)
def test_sizes_are_said_in_units_that_suit_them(size_bytes: int, text: str) -> None:
    assert values.size(size_bytes) == text


def test_a_state_of_a_newer_server_is_shown_as_its_number() -> None:
    assert values.word(jobs_pb2.JobState, 99, "JOB_STATE_") == "99"


def test_a_moment_that_is_unset_is_a_dash() -> None:
    assert values.moment(Timestamp()) == "-"
    assert values.between(Timestamp(seconds=1), Timestamp()) == "-"
