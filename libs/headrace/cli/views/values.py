"""Numbers, times and names as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

NOTHING = "-"
_DETAILS = ("_ms", "_bytes")
_UNITS = ("B", "KB", "MB", "GB", "TB")


def count(value: float) -> str:
    """Return a large number with separators: 12,345."""
    return f"{value:,.0f}"


def size(size_bytes: int) -> str:
    """Return a number of bytes in the unit that suits it: 1.5 MB."""
    value, unit = float(size_bytes), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.0f} B" if not unit else f"{value:.1f} {_UNITS[unit]}"


def measure(name: str, value: float) -> str:
    """Return a measure with its name: "loss 0.2134", "1,234 samples/s"."""
    if name == "samples_per_s":
        return f"{count(value)} samples/s"
    return f"{name.replace('_', ' ')} {value:.4g}"


def headline(metrics: Mapping[str, float]) -> list[str]:
    """Return the measures that fit on a line: without sizes and latencies of single candidates ("int8.batch1.p50_ms"), and
    without what only a curve tells.
    """
    return measures(
        {
            key: value
            for key, value in metrics.items()
            if key != "gradient_norm" and not ("." in key and key.endswith(_DETAILS))
        }
    )


def measures(metrics: Mapping[str, float]) -> list[str]:
    """Return all measures: the loss first, throughput last."""
    rank = {"loss": 0, "samples_per_s": 2}
    names = sorted(metrics, key=lambda name: (rank.get(name, 1), name))
    return [measure(name, metrics[name]) for name in names]


def duration(seconds: float) -> str:
    """Return a time span: "3.2 s", "4 min 10 s", "2 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def moment(time: Timestamp) -> str:
    """Return a moment in this machine's time zone, to the second; nothing if it is unset."""
    if not time.seconds:
        return NOTHING
    return datetime.fromtimestamp(time.seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def between(start: Timestamp, end: Timestamp) -> str:
    """Return the time from one moment to another; nothing if one is unset."""
    if not start.seconds or not end.seconds:
        return NOTHING
    return duration((end.ToNanoseconds() - start.ToNanoseconds()) / 1e9)


def word(enum: Any, value: int, prefix: str) -> str:
    """Return a value of a proto enum as a word: JOB_STATE_RUNNING is "running"."""
    try:
        return str(enum.Name(value)).removeprefix(prefix).lower()
    except ValueError:  # of a newer server
        return str(value)
