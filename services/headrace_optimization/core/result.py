"""What a version says of an optimization: its measures and its labels."""

import math
from collections.abc import Iterable, Mapping

from headrace.optimization.report import Candidate, Report

LABEL_CHARACTERS = 256  # of a value, as the registry allows


def version_metrics(report: Report) -> dict[str, float]:
    """Name the measures on the test split: those of the pick as they are, and each candidate's as "int8.accuracy"."""
    picked = report.candidate(report.pick.candidate).metrics
    each = {
        f"{candidate.name}.{name}": value
        for candidate in report.candidates
        for name, value in candidate.metrics.items()
    }
    return only_finite(picked | each)


def task_metrics(candidates: Iterable[Candidate]) -> dict[str, float]:
    """Name everything measured of candidates: "int8.accuracy", "int8.size_bytes", "int8.batch8.p50_ms"."""
    metrics: dict[str, float] = {}
    for candidate in candidates:
        metrics |= {f"{candidate.name}.{name}": value for name, value in candidate.metrics.items()}
        metrics[f"{candidate.name}.size_bytes"] = candidate.size_bytes
        for latency in candidate.latency:
            metrics[f"{candidate.name}.batch{latency.batch_size}.p50_ms"] = latency.p50_ms
            metrics[f"{candidate.name}.batch{latency.batch_size}.p99_ms"] = latency.p99_ms
    return only_finite(metrics)


def progress_metrics(candidates: Iterable[Candidate], goal: str) -> dict[str, float]:
    """Do as `task_metrics`, but of the measures on the test split only the one the gates look at: a line has no room for more."""
    return task_metrics(
        candidate.model_copy(
            update={"metrics": {name: value for name, value in candidate.metrics.items() if name == goal}}
        )
        for candidate in candidates
    )


def only_finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """Drop what is not a number; the report keeps it, with the gate that failed for it."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def version_labels(report: Report) -> dict[str, str]:
    """State how the version was made: the pick and why, and the libraries."""
    labels = {"precision": report.pick.candidate, "pick": report.pick.why} | report.libraries
    return {name: value[:LABEL_CHARACTERS] for name, value in labels.items()}
