"""`import headrace; headrace.connect(...)` is quick because it imports little; `benchmarks/client.py` takes the time."""

import json
import subprocess
import sys

import pytest

import headrace
from headrace.errors import InvalidArgument

HEAVY = ["torch", "numpy", "structlog", "pydantic", "opentelemetry", "sqlalchemy", "typer", "rich", "sklearn"]
CONNECT = f"""
import json, sys
import headrace
headrace.connect("127.0.0.1:1").close()
print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
"""


def test_connecting_imports_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONNECT], capture_output=True, text=True, timeout=60, check=True
    )

    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("address", ["", "localhost", "127.0.0.1", "127.0.0.1:http", "::1:8470"])
def test_an_address_that_is_none_is_refused_at_once(address: str) -> None:
    with pytest.raises(InvalidArgument, match="must be host:port") as raised:
        headrace.connect(address)

    assert raised.value.field == "address"


def test_a_project_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidArgument, match="projects/My Project"):
        headrace.connect(project="My Project")
