"""`headrace demo` as a new user runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]


def run_demo(example: str, folder: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "headrace.cli",
        "demo",
        "--example",
        example,
        "--data-dir",
        str(folder),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_demo_serves_an_accurate_int8_model(folder: Path) -> None:
    """That of the tabular example is in `test_demo_survives.py`."""
    result = run_demo("digits", folder)

    assert result["goal"] == "accuracy"
    by_file = {variant["file"]: variant for variant in result["variants"]}
    assert set(by_file) == {"fp32.onnx", "int8.onnx"}
    assert all(variant["metrics"]["accuracy"] >= 0.97 for variant in by_file.values())
    assert by_file["int8.onnx"]["size_bytes"] < by_file["fp32.onnx"]["size_bytes"]
    assert [latency["concurrency"] for latency in by_file["int8.onnx"]["latencies"]] == [1, 8]
    assert json.loads(Path(result["report"]).read_text())["candidates"]
    assert Path(result["plot"]).read_bytes().startswith(b"\x89PNG")


def test_the_text_demo_learns_the_language(folder: Path) -> None:
    result = run_demo("text", folder)

    assert all(variant["metrics"][result["goal"]] > 0 for variant in result["variants"])
    assert len(result["variants"]) == 2
