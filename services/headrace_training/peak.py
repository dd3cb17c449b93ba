"""What a rank could compute at most on this node: given by the operator, or measured once and kept."""

import json
import time
from pathlib import Path

import structlog

from headrace_training.core.device import Device
from headrace_training.core.flops import measured_peak

_FILE = "peaks.json"
_SECONDS = 0.3

log = structlog.get_logger(__name__)


def peak_flops(folder: Path, device: Device, threads: int, *, bf16: bool) -> float:
    """Return the FLOPs per second of a GPU, or of `threads` threads of the host, from `folder` if it was measured on this node before."""
    name = f"{threads} threads" if device.is_host else device.name
    path, key = folder / _FILE, f"{name}, {'bf16' if bf16 else 'fp32'}"
    known = _read(path)
    if key in known:
        return known[key]
    peak = measured_peak(_SECONDS, time.perf_counter, device, bf16=bf16)
    log.info("peak_measured", of=name, bf16=bf16, flops_per_s=peak)
    try:
        fresh = path.with_suffix(f".{time.time_ns()}.new")  # another rank may measure at the same time
        fresh.write_text(json.dumps(_read(path) | {key: peak}))
        fresh.replace(path)
    except OSError as error:
        log.warning("peak_not_kept", error=str(error))
    return peak


def _read(path: Path) -> dict[str, float]:
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text()).items()}
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
    ):  # not there yet, or damaged by a program: measured anew
        return {}
