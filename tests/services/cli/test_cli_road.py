"""The whole road by commands alone: `headrace up`, train, optimize, deploy, predict, and one Ctrl-C."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from headrace.testing import free_port
from tests.services.cli.command import Headrace

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

PROGRAM = '''
import numpy as np
import torch
from headrace.program import Examples, Goal

WEIGHTS = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32)
SEEDS = {"train": 0, "validation": 1, "test": 2}


class Line:
    """y = 1 a + 2 b + 3 c + 4 d."""

    goal = Goal("error", "min")

    def model(self):
        return Linear()

    def loss(self, outputs, targets):
        return torch.nn.functional.mse_loss(outputs, targets)

    def data(self, split):
        x = np.random.default_rng(SEEDS[split]).normal(size=(256, 4)).astype(np.float32)
        return Examples({"x": x}, x @ WEIGHTS)

    def metrics(self, outputs, targets):
        return {"error": float(((outputs - targets) ** 2).mean())}


class Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)

    def forward(self, x):
        return self.linear(x)
'''
WAIT_S = 90


@pytest.fixture
def up(tmp_path: Path) -> Iterator["tuple[Headrace, subprocess.Popen[str]]"]:
    """`headrace up` in a folder of its own, ready."""
    port = free_port()
    run = Headrace(f"127.0.0.1:{port}", "default", tmp_path)
    with run.start("up", "--port", str(port), "--workers", "1", "--shards", "1") as process:
        try:
            assert process.stdout is not None
            assert f"ready at {run.address}; Ctrl-C stops it\n" in process.stdout
            yield run, process
        finally:
            process.terminate()


@pytest.mark.timeout(300)  # some twenty processes, one after the other: on a busy machine that takes minutes
def test_the_whole_road_by_commands(up: "tuple[Headrace, subprocess.Popen[str]]") -> None:
    run, process = up
    services = psutil.Process(process.pid).children(recursive=True)
    (run.folder / "my_model.py").write_text(PROGRAM)

    trained = run(
        "train", "my_model.py", "line", "--steps", "200", "--batch-size", "32", "--learning-rate", "0.05"
    )
    assert "done: line/1" in trained.stdout.splitlines()[-1]
    job = run.json("jobs")[0]["name"]
    assert "training_ended" in run("job", "logs", job).stdout
    assert run("job", "logs", job, "--tail", "1").stdout.count("\n") == 1
    assert len(run.json("job", "metrics", job, "--metric", "loss")["loss"]["steps"]) == 200
    assert run("job", "metrics", job, "--plot").stdout.startswith("error\n")
    run("job", "metrics", job, "--png", "curves.png")
    assert (run.folder / "curves.png").stat().st_size > 1000
    assert "line/2" in run("optimize", "line", "--max-metric-drop", "1").stdout.splitlines()[-1]
    run("job", "logs", run.json("jobs")[0]["name"])  # of an optimization, which may have printed nothing
    assert run("deploy", "line", "line").stdout.startswith("line serves line/2 at 127.0.0.1:")
    answer = run.json("predict", "line", "--input", "x=[[1,0,0,0],[0,0,0,1]]")
    (output,) = answer["outputs"].values()
    assert output["data"] == [[pytest.approx(1, abs=0.2)], [pytest.approx(4, abs=0.2)]]
    assert "has no input 'y'" in run.error("predict", "line", "--input", "y=[[1,0,0,0]]")
    assert {node["state"] for node in run.json("nodes")} == {"NODE_STATE_READY"}
    run("model", "download", "line", "result")
    assert json.loads((run.folder / "result" / "report.json").read_text())["schema_version"] == 1

    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)

    assert (process.returncode, out, err) == (0, "stopped\n", "")
    assert not [service for service in services if service.is_running()]


def test_a_port_that_is_taken_is_told_before_anything_starts(
    up: "tuple[Headrace, subprocess.Popen[str]]",
) -> None:
    run, _ = up
    port = run.address.rpartition(":")[2]

    said = run.error("up", "--port", port, "--data-dir", "other")

    assert said.startswith("error: port ")
    assert "is in use, perhaps by another headrace" in said
    assert not (run.folder / "other").exists()
