"""The facts a latency or a rounding depends on: the machine and the libraries."""

import importlib.metadata
import os
import platform
from pathlib import Path

LIBRARIES = ("headrace", "numpy", "onnx", "onnxscript", "torch")
RUNTIMES = ("onnxruntime-gpu", "onnxruntime")  # the same library under two names; one of them is installed
INTEGER_EXTENSIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "asimddp", "i8mm")


def describe_machine() -> dict[str, str]:
    """Describe this machine: its system, processor, cores, and what speeds up integers."""
    cpu = _read_cpu()
    flags = (cpu.get("flags") or cpu.get("Features") or "").split()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": cpu.get("model name") or platform.processor() or "unknown",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "integer_extensions": " ".join(flag for flag in INTEGER_EXTENSIONS if flag in flags),
        "python": platform.python_version(),
    }


def describe_libraries() -> dict[str, str]:
    """Name the version of each library that made or measured the files."""
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    for name in RUNTIMES:
        try:
            return versions | {"onnxruntime": importlib.metadata.version(name)}
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _read_cpu() -> dict[str, str]:
    """Read what Linux says of the first core; nothing elsewhere."""
    path = Path("/proc/cpuinfo")
    first = path.read_text().split("\n\n")[0] if path.exists() else ""
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
