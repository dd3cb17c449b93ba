"""`import headrace; headrace.connect(...)` is quick because it imports little."""

import json
import subprocess
import sys
from typing import Any

import pytest

import headrace
from headrace.errors import InvalidArgument

HEAVY = ["torch", "numpy", "structlog", "pydantic", "opentelemetry", "sqlalchemy", "typer", "rich", "sklearn"]
CONNECT = f"""
import json, sys, time
started = time.perf_counter()
import headrace
client = headrace.connect("127.0.0.1:1")
seconds = time.perf_counter() - started
client.close()
print(json.dumps({{"seconds": seconds, "heavy": [name for name in {HEAVY} if name in sys.modules]}}))
"""
BOUND_S = 0.3
RUNS = 5  # the quickest counts: the others tell about the machine's other work


def connect_once() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", CONNECT], capture_output=True, text=True, timeout=60, check=True
    )
    return dict(json.loads(done.stdout))


def test_connecting_imports_nothing_heavy() -> None:
    assert connect_once()["heavy"] == []


def test_importing_and_connecting_take_less_than_300_ms() -> None:
    assert min(connect_once()["seconds"] for _ in range(RUNS)) < BOUND_S


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1", "127.0.0.1:http", "::1:8470"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(InvalidArgument, match="must be host:port") as raised:
        headrace.connect(address)

    assert raised.value.field == "address"


def test_a_project_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidArgument, match="projects/My Project"):
        headrace.connect(project="My Project")
