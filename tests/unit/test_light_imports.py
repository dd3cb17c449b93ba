"""The library starts fast because it imports no framework."""

import subprocess
import sys

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
