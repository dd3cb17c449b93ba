"""Logs, metrics and traces of real calls."""

import io
import json
import logging
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from prometheus_client import CollectorRegistry

from headrace import errors
from headrace.registry.v1 import models_pb2, models_pb2_grpc
from headrace.rpc.layers import current_call
from headrace.rpc.server import Server
from headrace.telemetry.logs import setup_logs, write_severities, written_severities
from headrace.telemetry.metrics import new_registry, serve_metrics
from headrace.telemetry.traces import setup_traces
from headrace.testing import handler, serve
from headrace.training.v1 import workers_pb2_grpc
from headrace.types.v1 import task_pb2

log = structlog.get_logger()


@pytest.fixture
def logs() -> Iterator[Callable[[], list[dict[str, object]]]]:
    """Set up JSON logs into memory and yield what reads them."""
    root = logging.getLogger()
    before, severities = (list(root.handlers), root.level), written_severities()
    stream = io.StringIO()
    setup_logs("probe", level="debug", log_format="auto", stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    write_severities(severities)
    root.handlers[:], level = before
    root.setLevel(level)
    structlog.reset_defaults()


def models(get: Callable[[], models_pb2.Model]) -> Callable[[Server], None]:
    return handler("headrace.registry.v1.Models/GetModel", lambda *_: get())


def get_model(channel: grpc.Channel) -> models_pb2.Model:
    request = models_pb2.GetModelRequest(name="projects/default/models/digits")
    return models_pb2_grpc.ModelsStub(channel).GetModel(request, metadata=(("headrace-request-id", "r-1"),))


def answer() -> models_pb2.Model:
    structlog.get_logger().info("model_read", size=3)
    return models_pb2.Model()


def fail() -> models_pb2.Model:
    raise errors.NotFound("no such model")


def test_a_log_line_of_a_handler_says_which_call_it_belongs_to(
    logs: Callable[[], list[dict[str, object]]],
) -> None:
    with serve(models(answer)) as channel:
        get_model(channel)
    (line,) = [line for line in logs() if line["event"] == "model_read"]
    assert line["rpc"] == "headrace.registry.v1.Models/GetModel"
    assert (line["request_id"], line["principal"], line["service"]) == ("r-1", "local", "probe")
    assert (line["size"], line["level"]) == (3, "info")
    assert str(line["peer"]).startswith("ipv4:127.0.0.1:")


def test_lines_of_libraries_have_the_same_form(logs: Callable[[], list[dict[str, object]]]) -> None:
    logging.getLogger("some.library").warning("it is %s", "late")
    (line,) = logs()
    assert (line["event"], line["level"], line["service"]) == ("it is late", "warning", "probe")


def test_tracebacks_carry_no_local_variables(logs: Callable[[], list[dict[str, object]]]) -> None:
    def fail_with_a_secret() -> models_pb2.Model:
        password = "sword" + "fish"
        raise ValueError(len(password))

    with serve(models(fail_with_a_secret)) as channel, pytest.raises(errors.Internal):
        get_model(channel)
    (line,) = [line for line in logs() if line["event"] == "rpc_failed"]
    assert "fail_with_a_secret" in str(line["exception"])
    assert "swordfish" not in json.dumps(line)


def test_metrics_count_calls_by_method_and_code() -> None:
    registry = CollectorRegistry()
    with serve(models(answer), metrics=registry) as channel:
        get_model(channel)
    with serve(models(fail)) as channel, pytest.raises(errors.NotFound):
        get_model(channel)
    method = {"method": "headrace.registry.v1.Models/GetModel"}
    assert registry.get_sample_value("headrace_rpc_handled_total", {**method, "code": "OK"}) == 1
    assert registry.get_sample_value("headrace_rpc_seconds_count", method) == 1
    assert registry.get_sample_value("headrace_rpc_in_flight", method) == 0


def test_metrics_name_the_code_of_a_failure() -> None:
    registry = CollectorRegistry()
    with serve(models(fail), metrics=registry) as channel, pytest.raises(errors.NotFound):
        get_model(channel)
    labels = {"method": "headrace.registry.v1.Models/GetModel", "code": "NOT_FOUND"}
    assert registry.get_sample_value("headrace_rpc_handled_total", labels) == 1


def test_the_metrics_endpoint_answers_prometheus() -> None:
    address, close = serve_metrics("127.0.0.1:0", new_registry())
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as response:
            assert b"process_resident_memory_bytes" in response.read()
        with pytest.raises(OSError, match="in use"):
            serve_metrics(address, new_registry())
    finally:
        close()


def spans_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_trace_crosses_two_servers(tmp_path: Path) -> None:
    close = setup_traces("probe", f"file:{tmp_path}/spans.jsonl")
    with (
        serve(models(fail)) as inner,
        serve(models(lambda: get_model(inner))) as outer,
        pytest.raises(errors.NotFound),
    ):
        get_model(outer)
    close()
    spans = spans_in(tmp_path / "spans.jsonl")
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    by_parent = {span["parent_id"]: span for span in spans}
    chain = [by_parent[None]]
    while (span_id := chain[-1]["context"]["span_id"]) in by_parent:
        chain.append(by_parent[span_id])
    assert [span["kind"].removeprefix("SpanKind.") for span in chain] == [
        "CLIENT",
        "SERVER",
        "CLIENT",
        "SERVER",
    ]
    assert {span["name"] for span in spans} == {"headrace.registry.v1.Models/GetModel"}
    assert {span["attributes"]["rpc.response.status_code"] for span in spans} == {"NOT_FOUND"}
    assert {span["status"]["status_code"] for span in spans} == {"ERROR"}


def test_log_lines_carry_the_trace(logs: Callable[[], list[dict[str, object]]], tmp_path: Path) -> None:
    close = setup_traces("probe", f"file:{tmp_path}/spans.jsonl")
    with serve(models(answer)) as channel:
        get_model(channel)
    close()
    (line,) = [line for line in logs() if line["event"] == "model_read"]
    trace_ids = {span["context"]["trace_id"] for span in spans_in(tmp_path / "spans.jsonl")}
    assert trace_ids == {f"0x{line['trace_id']}"}


def test_a_stream_whose_caller_leaves_ends_its_span_as_cancelled(
    logs: Callable[[], list[dict[str, object]]], tmp_path: Path
) -> None:
    """In the context it began in: OpenTelemetry logs an error otherwise."""
    left = threading.Event()

    def watch(request: object, context: grpc.ServicerContext) -> Iterator[task_pb2.WatchTaskResponse]:
        current_call().on_end(left.set)
        yield task_pb2.WatchTaskResponse()
        assert left.wait(10)
        yield task_pb2.WatchTaskResponse()

    registry = CollectorRegistry()
    close = setup_traces("probe", f"file:{tmp_path}/spans.jsonl")
    with serve(handler("headrace.training.v1.Workers/WatchTask", watch), metrics=registry) as channel:
        request = task_pb2.WatchTaskRequest(name="projects/default/tasks/t")
        stream = workers_pb2_grpc.WorkersStub(channel).WatchTask(request)
        next(stream)
        stream.cancel()
        assert left.wait(10)
        assert channel.server.drain(10)
    close()
    spans = spans_in(tmp_path / "spans.jsonl")
    assert [span["attributes"]["rpc.response.status_code"] for span in spans] == ["CANCELLED"] * 2
    labels = {"method": "headrace.training.v1.Workers/WatchTask", "code": "CANCELLED"}
    assert registry.get_sample_value("headrace_rpc_handled_total", labels) == 1
    assert [line for line in logs() if line["level"] == "error"] == []


def test_which_severities_are_written_can_be_changed(logs: Callable[[], list[dict[str, object]]]) -> None:
    assert written_severities() == {"debug", "info", "warning", "error"}
    write_severities(["info", "error"])
    for severity in ("debug", "info", "warning", "error"):
        getattr(log, severity)("ours", number=1)
        getattr(logging.getLogger("library"), severity)("theirs")
    assert [(line["event"], line["level"]) for line in logs()] == [
        ("ours", "info"),
        ("theirs", "info"),
        ("ours", "error"),
        ("theirs", "error"),
    ]
    write_severities(["debug"])
    log.debug("again")
    assert logs()[-1]["event"] == "again"
