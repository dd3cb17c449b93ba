"""Processes start fast, and stay small, because they import no framework that they do not need."""

import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, pkgutil, sys
import headrace
for module in pkgutil.walk_packages(headrace.__path__, "headrace."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(*sorted({"torch", "onnx", "onnxruntime", "onnxscript", "sklearn", "matplotlib", "pyarrow", "PIL", "obstore"} & set(sys.modules)))
"""


def test_no_module_of_the_library_imports_a_framework() -> None:
    """In a process of its own, where nothing else was imported before."""
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL], capture_output=True, text=True, timeout=60, check=False
    )

    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


@pytest.mark.parametrize(
    ("module", "framework"),
    [
        ("headrace_registry.__main__", "numpy"),
        ("headrace_scheduler.__main__", "torch"),
        ("headrace_inference.__main__", "torch"),
        ("headrace_optimization.__main__", "torch"),
        ("headrace_training.__main__", "torch"),
        ("headrace_training.child", "torch._dynamo"),
        ("headrace_parameters.__main__", "torch._dynamo"),
    ],
)
def test_a_process_imports_no_framework_that_it_does_not_need(module: str, framework: str) -> None:
    code = f"import {module}, sys; sys.exit({framework!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
