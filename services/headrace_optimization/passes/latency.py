"""Latency of several models, measured side by side so that whatever else the machine does hits all of them alike."""

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from headrace.optimization.report import Latency
from headrace_optimization.passes.session import Arrays, run_model, take

WARM_UP_ROUNDS = 5
LEAST_ROUNDS = 30  # for a median worth the name
MOST_ROUNDS = 1000  # for ten values beyond the 99th percentile
SECONDS_PER_BATCH_SIZE = 1.0


def measure_latency(
    sessions: Mapping[str, ort.InferenceSession],
    inputs: Arrays,
    batch_sizes: Sequence[int],
    seconds: float = SECONDS_PER_BATCH_SIZE,
) -> dict[str, tuple[Latency, ...]]:
    """Time every model at every batch size.

    Args:
        sessions: The models by name.
        inputs: Examples the batches are made of, repeated where there are too few.
        seconds: Wall time per batch size, all models together; at least 30 rounds are measured, however long that takes.
    Returns:
        For each model one `Latency` per batch size, in the order of `batch_sizes`.
    """
    columns = [_measure(sessions, take(inputs, range(size)), size, seconds) for size in batch_sizes]
    return {name: tuple(column[name] for column in columns) for name in sessions}


def _measure(
    sessions: Mapping[str, ort.InferenceSession], batch: Arrays, batch_size: int, seconds: float
) -> dict[str, Latency]:
    for _ in range(WARM_UP_ROUNDS):
        _time_round(sessions, batch)
    rounds: list[dict[str, float]] = []
    end = time.perf_counter() + seconds
    while len(rounds) < LEAST_ROUNDS or (len(rounds) < MOST_ROUNDS and time.perf_counter() < end):
        rounds.append(_time_round(sessions, batch))
    return {name: _summarize([one[name] for one in rounds], batch_size) for name in sessions}


def _time_round(sessions: Mapping[str, ort.InferenceSession], batch: Arrays) -> dict[str, float]:
    """Run each model once; return its milliseconds."""
    times_ms = {}
    for name, session in sessions.items():
        start = time.perf_counter()
        run_model(session, batch)
        times_ms[name] = (time.perf_counter() - start) * 1e3
    return times_ms


def _summarize(times_ms: Sequence[float], batch_size: int) -> Latency:
    p50_ms, p99_ms = (float(value) for value in np.percentile(times_ms, [50, 99]))
    return Latency(batch_size=batch_size, p50_ms=p50_ms, p99_ms=p99_ms, rounds=len(times_ms))
