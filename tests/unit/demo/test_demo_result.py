"""What the demo says at its end."""

from io import StringIO

import pytest
from rich.console import Console

from headrace.demo.measure import Latency
from headrace.demo.result import DemoResult, Stage, Variant
from headrace.demo.tables import print_result

LATENCY = Latency(concurrency=1, p50_ms=1.0, p99_ms=2.0, requests_per_s=900.0)
RESULT = DemoResult(
    example="tabular",
    version="projects/default/models/tabular/versions/2",
    goal="accuracy",
    workers=2,
    shards=2,
    steps=400,
    samples_per_s=1000.0,
    attempts=1,
    variants=[Variant("fp32.onnx", "tabular", True, "passed", 10, {"accuracy": 0.9}, [LATENCY])],
    stages=[Stage("training", 1.0)],
    scheduler_address="127.0.0.1:1",
    registry_address="127.0.0.1:2",
    inference_address="127.0.0.1:3",
    report="report.json",
    plot="report.png",
    folder="demo",
)


@pytest.mark.parametrize(
    ("kept", "says"),
    [
        (False, "The services have stopped; to try them yourself: headrace demo --example tabular --keep"),
        (True, "It is still running; Ctrl-C stops it."),
    ],
)
def test_the_last_lines_say_how_to_go_on(kept: bool, says: str) -> None:
    text = StringIO()
    print_result(RESULT, Console(file=text, width=100), kept=kept)
    assert says in text.getvalue()
