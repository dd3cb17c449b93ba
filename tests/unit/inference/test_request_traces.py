"""Where the traces of requests go."""

import itertools
import json
from pathlib import Path

from headrace_inference.core.catalog import Key
from headrace_inference.core.trace_settings import TraceSettings
from headrace_inference.tracing import COMPUTE_END, QUEUE_START, Tracer

KEY = Key("p", "m")


def traced(file: Path, **settings: str) -> Tracer:
    made = TraceSettings(str(file))
    made.change(
        None, {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"], **{k: [v] for k, v in settings.items()}}
    )
    return Tracer(made, clock=itertools.count(100).__next__)


def test_a_traced_request_is_two_lines_with_its_stages(tmp_path: Path) -> None:
    tracer = traced(tmp_path / "trace")
    trace = tracer.begin(KEY)
    assert trace is not None
    trace.mark(QUEUE_START)
    trace.mark(COMPUTE_END)
    trace.end("3")
    lines = [json.loads(line) for line in (tmp_path / "trace").read_text().splitlines()]
    assert lines == [
        {"id": 1, "model_name": "m", "model_version": "3"},
        {
            "id": 1,
            "timestamps": [
                {"name": "REQUEST_START", "ns": 100},
                {"name": "QUEUE_START", "ns": 101},
                {"name": "COMPUTE_END", "ns": 102},
                {"name": "REQUEST_END", "ns": 103},
            ],
        },
    ]


def test_with_a_frequency_every_so_many_traces_get_a_file_of_their_own(tmp_path: Path) -> None:
    tracer = traced(tmp_path / "trace", log_frequency="2")
    for _ in range(3):
        trace = tracer.begin(KEY)
        assert trace is not None
        trace.end("1")
    lines = {path.name: len(path.read_text().splitlines()) for path in tmp_path.iterdir()}
    assert lines == {"trace.0": 4, "trace.1": 2}


def test_what_is_not_traced_costs_nothing(tmp_path: Path) -> None:
    assert Tracer(TraceSettings(str(tmp_path / "trace"))).begin(KEY) is None
