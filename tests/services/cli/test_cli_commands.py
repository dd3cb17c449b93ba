"""Commands against a real scheduler and registry that have no nodes."""

import signal
from pathlib import Path

import pytest

from headrace.client import Client
from headrace.registry.v1.models_pb2 import FILE_ROLE_ONNX, File, Version
from headrace.scheduler.v1 import jobs_pb2
from headrace.testing import free_port
from tests.services.cli.command import Headrace

TRAIN = ("train", "headrace_examples.digits:Digits", "digits", "--steps", "10", "--batch-size", "8")
EMPTY = {
    "jobs": "no jobs yet",
    "models": "no models yet",
    "deployments": "no deployments yet",
    "nodes": "no nodes are attached",
}
WAIT_S = 30


def register(client: Client) -> Version:
    artifact = client.registry.upload_bytes(client.project, b"a model")
    files = [File(path="fp32.onnx", artifact=artifact, role=FILE_ROLE_ONNX)]
    return client.registry.create_version(
        f"projects/{client.project}/models/digits", Version(files=files, serving_file="fp32.onnx")
    )


@pytest.mark.parametrize("command", EMPTY)
def test_an_empty_list_says_what_to_do_and_is_an_empty_array(command: str, run: Headrace) -> None:
    assert run(command).stdout.startswith(f"{EMPTY[command]}; `headrace ")
    assert run.json(command) == []


def test_a_detached_job_says_how_to_watch_it_and_waits_in_the_list(run: Headrace) -> None:
    said = run(*TRAIN, "--detach", "--name", "mine").stdout

    command = f"headrace --address {run.address} --project {run.project} job watch mine"
    assert said == f"mine is submitted; watch it with: {command}\n"
    header, row = run("jobs").stdout.splitlines()
    assert header.split()[:4] == ["JOB", "KIND", "OF", "STATE"]
    assert row.split()[:4] == ["mine", "train", "digits", "queued"]
    (job,) = run.json("jobs")
    assert job["name"] == f"projects/{run.project}/jobs/mine"
    assert job["state"] == "JOB_STATE_QUEUED"
    assert job["train"]["options"]["batch_size"] == 8


def test_a_file_of_ones_own_is_submitted_with_its_config(run: Headrace) -> None:
    source = "class Net:\n    def model(self): ...\n    def data(self, split): ...\n"
    (run.folder / "my_model.py").write_text(source)
    options = ("--steps", "1", "--batch-size", "1", "--config", "width=64", "--detach")

    job = run.json("train", "my_model.py", "net", *options)

    assert job["train"]["program"]["archive"]["object"] == "my_model:Net"
    assert job["train"]["program"]["config"] == {"width": 64.0}


def test_a_job_is_shown_explained_and_cancelled(run: Headrace) -> None:
    run(*TRAIN, "--detach", "--name", "mine")

    assert run("job", "explain", "mine").stdout.startswith("waits: needs 1 free")
    assert "conditions" in run.json("job", "explain", "mine")
    assert f"projects/{run.project}/jobs/mine" in run("job", "show", "mine").stdout
    assert run("job", "cancel", "mine").stdout == "mine is cancelled\n"
    assert run.json("job", "show", "mine")["state"] == "JOB_STATE_CANCELLED"


def test_a_job_that_waits_is_given_another_number_of_shards(run: Headrace) -> None:
    run(*TRAIN, "--detach", "--name", "mine")

    assert run("job", "reshard", "mine", "--shards", "3").stdout == "mine: queued; will have 3 shards\n"
    assert run.json("job", "reshard", "mine", "--shards", "2", "--detach")["train"]["shards"] == 2
    assert "error: " in run("job", "reshard", "mine", "--shards", "0", code=1).stderr
    run("job", "cancel", "mine")
    assert (
        "has ended; submit it again as you wish"
        in run("job", "reshard", "mine", "--shards", "2", code=1).stderr
    )


def test_watching_a_job_that_is_cancelled_ends_as_an_error(run: Headrace, client: Client) -> None:
    job = client.train("headrace_examples.digits:Digits", "digits", steps=1, batch_size=1, job_id="mine")
    with run.start("job", "watch", "mine") as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith("mine: queued")
        client.cancel(job)
        _, err = watching.communicate(timeout=WAIT_S)

    assert watching.returncode == 1
    assert err == f"error: {job.name} was cancelled; submit it again to run it\n"


def test_ctrl_c_leaves_the_job_running_and_says_how_to_watch_it_again(run: Headrace, client: Client) -> None:
    with run.start(*TRAIN, "--name", "mine") as training:
        assert training.stdout is not None
        assert training.stdout.readline().startswith("mine: queued")
        training.send_signal(signal.SIGINT)
        _, err = training.communicate(timeout=WAIT_S)

    assert training.returncode == 130
    again = f"headrace --address {run.address} --project {run.project} job watch mine"
    assert err == f"mine goes on; watch it again with: {again}\n"
    assert client.job("mine").state == jobs_pb2.JOB_STATE_QUEUED


def test_progress_goes_to_standard_error_beside_json(run: Headrace, client: Client) -> None:
    with run.start(*TRAIN, "--name", "mine", "--json") as training:
        assert training.stderr is not None
        assert training.stderr.readline().startswith("mine: queued")
        client.cancel("mine")
        out, _ = training.communicate(timeout=WAIT_S)

    assert (training.returncode, out) == (1, "")


def test_models_versions_and_aliases_are_shown(run: Headrace, client: Client) -> None:
    register(client)
    register(client)

    assert run("model", "alias", "digits", "stable", "1").stdout == "digits@stable is version 1\n"
    assert run("models").stdout.splitlines()[1].split()[:4] == ["digits", "stable", "->", "digits/1"]
    assert [line.split()[0] for line in run("model", "versions", "digits").stdout.splitlines()] == [
        "VERSION",
        "digits/2",
        "digits/1",
    ]
    assert run.json("model", "show", "digits@stable")["name"].endswith("/versions/1")
    assert "fp32.onnx" in run("model", "show", "digits").stdout
    assert run("model", "alias", "digits", "stable").stdout == "digits@stable is removed\n"


def test_the_files_of_a_version_are_downloaded(run: Headrace, client: Client) -> None:
    register(client)

    assert run("model", "download", "digits", "here").stdout == f"{Path('here/fp32.onnx')}\n"
    assert (run.folder / "here" / "fp32.onnx").read_bytes() == b"a model"


def test_a_deployment_is_made_listed_and_removed(run: Headrace, client: Client) -> None:
    register(client)

    said = run("deploy", "digits", "digits@latest", "--detach").stdout
    assert said == "digits will serve digits/1; it is progressing\n"
    assert run("deployments").stdout.splitlines()[1].split()[:5] == [
        "digits",
        "digits/1",
        "-",
        "progressing",
        "0/1",
    ]
    late = run.error("deploy", "digits", "digits", "--timeout", "0.2")
    assert late.startswith(f"error: projects/{run.project}/deployments/digits was not done within 0.2 s")
    assert run("undeploy", "digits").stdout == "digits is no longer served\n"
    assert run.json("deployments") == []


def test_the_versions_of_both_sides_are_shown(run: Headrace) -> None:
    versions = run.json("version")

    assert versions["client"] == versions["server"]


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (("job", "show", "absent"), "jobs/absent"),
        (("model", "show", "absent"), "models/absent"),
        (("predict", "absent", "--input", "x=[1]"), "deployments/absent"),
        (("undeploy", "absent"), "deployments/absent"),
        (("node", "drain", "absent"), "nodes/absent"),
        (("train", "absent.py", "m", "--steps", "1", "--batch-size", "1"), "there is no file absent.py"),
        (("job", "show", "Not A Name"), "is not of the form"),
    ],
)
def test_an_error_is_one_line(command: tuple[str, ...], line: str, run: Headrace) -> None:
    said = run.error(*command)

    assert said.startswith("error: ")
    assert line in said


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "command", [("jobs",), ("job", "watch", "mine"), ("predict", "digits", "--input", "x=[1]"), TRAIN]
)
def test_where_nothing_listens_one_line_soon_says_what_to_do(command: tuple[str, ...], run: Headrace) -> None:
    address = f"127.0.0.1:{free_port()}"

    assert run.error(*command, "--address", address) == (
        f"error: no headrace answers at {address}; "
        f"start one with `headrace up`, or name another with --address host:port"
    )


def test_wrong_usage_is_one_line_and_code_2(run: Headrace) -> None:
    said = run.error("train", "x.py", "m", "--steps", "many", "--batch-size", "1", code=2)

    assert said.startswith("error: invalid value for '--steps'")
    assert said.endswith("see `headrace train --help`")


def test_a_reader_that_leaves_early_is_no_error(run: Headrace) -> None:
    """As in `headrace jobs | head -1`."""
    run(*TRAIN, "--detach")
    with run.start("jobs", "--json") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_output_in_a_pipe_has_no_control_characters(run: Headrace) -> None:
    run(*TRAIN, "--detach", "--name", "mine")
    outputs = [run("jobs"), run("job", "show", "mine"), run("job", "explain", "mine"), run("train", "--help")]

    assert not any(ord(char) < 32 and char != "\n" for done in outputs for char in done.stdout)
