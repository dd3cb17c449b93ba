"""A service as a process, from settings to exit status."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from headrace import errors
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.channel import open_channel
from headrace.testing import serve
from headrace.training.v1 import workers_pb2_grpc
from headrace.types.v1 import task_pb2

MAIN = """
import sys, threading
from pydantic_settings import SettingsConfigDict
from headrace.config import ServiceSettings, load_or_exit
from headrace.errors import FailedPrecondition
from headrace.registry.v1 import models_pb2
from headrace.rpc.process import Process
from headrace.testing import handler
from headrace.training.v1 import workers_pb2_grpc
from headrace.types.v1 import task_pb2

class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="HEADRACE_PROBE_")
    start: str = "well"

def get(request, context):
    if request.name.endswith("/hang"):
        threading.Event().wait()
    return models_pb2.Model(name=request.name)

def watch(request, context):
    yield task_pb2.WatchTaskResponse()
    threading.Event().wait()

settings = load_or_exit(Settings)
with Process("probe", settings) as process:
    process.closing(lambda: print("closed first", flush=True))
    process.closing(lambda: print("closed second", flush=True))
    if settings.start == "refused":
        raise FailedPrecondition("the folder is not writable; choose another")
    if settings.start == "broken":
        raise ValueError("a bug")
    process.serve(
        handler("headrace.registry.v1.Models/GetModel", get),
        handler("headrace.training.v1.Workers/WatchTask", watch),
        on_listening=lambda address: print(address, flush=True),
    )
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def run(**settings: str) -> "subprocess.Popen[str]":
        environ = {
            **os.environ,
            **{f"HEADRACE_PROBE_{name.upper()}": value for name, value in settings.items()},
        }
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def address_of(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def lines(text: str) -> dict[str, dict[str, Any]]:
    return {line["event"]: line for line in map(json.loads, text.splitlines())}


def get(address: str, model: str = "m") -> models_pb2.Model:
    with open_channel(address) as channel:
        return models_pb2_grpc.ModelsStub(channel).GetModel(
            models_pb2.GetModelRequest(name=f"projects/default/models/{model}")
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("front_end", ["grpcio", "turbo"])
def test_a_signal_ends_it_in_good_order_with_status_0(
    front_end: str, number: signal.Signals, start: Start, tmp_path: Path
) -> None:
    process = start(address_file=str(tmp_path / "address"), front_end=front_end)
    address = address_of(process)
    assert get(address).name == "projects/default/models/m"
    assert (tmp_path / "address").read_text() == f"{address}\n"
    process.send_signal(number)
    out, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == "closed second\nclosed first\n"
    assert list(lines(log)) == ["listening", "draining", "stopped"]
    assert lines(log)["listening"]["address"] == address
    assert lines(log)["listening"]["front_end"] == front_end


@pytest.mark.parametrize("front_end", ["grpcio", "turbo"])
def test_it_leaves_within_its_bound_although_a_handler_never_returns(front_end: str, start: Start) -> None:
    process = start(drain_s="0.2", front_end=front_end)
    address = address_of(process)
    with ThreadPoolExecutor() as threads:
        call = threads.submit(get, address, "hang")
        with open_channel(
            address
        ) as channel:  # answered after the hanging call was sent, on another connection
            watching = workers_pb2_grpc.WorkersStub(channel).WatchTask(
                task_pb2.WatchTaskRequest(name="projects/default/tasks/t")
            )
            next(watching)
            process.terminate()
            out, log = process.communicate(timeout=20)
        with pytest.raises(errors.HeadraceError):
            call.result(20)
    assert process.returncode == 0
    assert out == "closed second\nclosed first\n"
    assert "calls_abandoned" in lines(log)


def test_a_second_signal_ends_it_at_once(start: Start) -> None:
    process = start(drain_s="60")
    address = address_of(process)
    with open_channel(address) as channel:
        watching = workers_pb2_grpc.WorkersStub(channel).WatchTask(
            task_pb2.WatchTaskRequest(name="projects/default/tasks/t")
        )
        next(watching)
        process.terminate()
        assert process.stderr is not None
        while "draining" not in process.stderr.readline():
            pass
        process.terminate()
        assert process.wait(timeout=20) == 128 + signal.SIGTERM


def test_a_port_in_use_is_one_line_that_names_the_setting(start: Start) -> None:
    with serve() as taken:
        process = start(address=taken.address)
        _, log = process.communicate(timeout=20)
    assert (process.returncode, len(log.splitlines())) == (1, 2)
    line = lines(log)["setting_unusable"]
    assert (line["variable"], line["value"]) == ("HEADRACE_PROBE_ADDRESS", taken.address)
    assert line["error"] == f"cannot listen on {taken.address}: Address already in use"


def test_a_metrics_port_in_use_is_one_line_too(start: Start) -> None:
    with serve() as taken:
        process = start(metrics_address=taken.address)
        _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert lines(log)["setting_unusable"]["variable"] == "HEADRACE_PROBE_METRICS_ADDRESS"


def test_a_start_that_is_refused_is_one_line_and_status_1(start: Start) -> None:
    process = start(start="refused")
    out, log = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "closed second\nclosed first\n")
    assert lines(log)["process_failed"]["error"] == "the folder is not writable; choose another"


def test_a_bug_is_logged_with_its_traceback(start: Start) -> None:
    process = start(start="broken")
    _, log = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "ValueError: a bug" in lines(log)["process_failed"]["exception"]


def test_mistakes_in_the_settings_end_it_with_status_2(start: Start) -> None:
    process = start(drain_s="soon", adress="127.0.0.1:1")
    _, log = process.communicate(timeout=20)
    assert process.returncode == 2
    assert len(log.splitlines()) == 2
    assert "did you mean HEADRACE_PROBE_ADDRESS?" in log


@pytest.mark.slow
def test_a_frozen_server_is_noticed(start: Start) -> None:
    process = start()
    with open_channel(address_of(process)) as channel:
        watching = workers_pb2_grpc.WorkersStub(channel).WatchTask(
            task_pb2.WatchTaskRequest(name="projects/default/tasks/t")
        )
        next(watching)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(errors.Unavailable):
            next(watching)
