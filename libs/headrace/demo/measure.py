"""Measures of a served model, taken from where a user stands: outside, through ModelInfer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from headrace.data.rows import Rows

Array = np.ndarray[Any, Any]
Infer = Callable[[Mapping[str, Array]], Array]  # inputs by name -> the model's one output

_BATCH = 32  # examples per request when the whole split is sent; the server's default largest batch
_WARM_UP = 20  # requests per caller that are not counted


@dataclass(frozen=True)
class Latency:
    """Time from request to answer, one example per request, as each of `concurrency` callers sees it."""

    concurrency: int
    p50_ms: float
    p99_ms: float
    requests_per_s: float


def outputs(infer: Infer, rows: Rows) -> tuple[Array, Array]:
    """Send a whole split in batches and return outputs and targets, first axis = examples."""
    answers, targets = [], []
    for batch in rows.batches(_BATCH):
        answers.append(infer(batch.inputs))
        targets.append(batch.targets)
    return np.concatenate(answers), np.concatenate(targets)


def latency(infer: Infer, rows: Rows, *, concurrency: int, requests: int) -> Latency:
    """Send `requests` single examples from `concurrency` callers, each waiting for its answer before the next.

    Args:
        requests: Counted requests in all, at least `concurrency`.
    """
    single = {name: array[:1] for name, array in rows.sample(1).inputs.items()}
    barrier = threading.Barrier(concurrency + 1)
    with ThreadPoolExecutor(concurrency) as pool:
        callers = [
            pool.submit(_caller, infer, single, requests // concurrency, barrier) for _ in range(concurrency)
        ]
        barrier.wait()
        started = time.perf_counter()
        taken_s = np.concatenate([caller.result() for caller in callers])
        wall_s = time.perf_counter() - started
    p50_s, p99_s = np.percentile(taken_s, [50, 99])
    return Latency(concurrency, float(p50_s) * 1e3, float(p99_s) * 1e3, len(taken_s) / wall_s)


def _caller(infer: Infer, single: Mapping[str, Array], requests: int, barrier: threading.Barrier) -> Array:
    try:
        for _ in range(_WARM_UP):
            infer(single)
    except BaseException:
        barrier.abort()  # else the others would wait for this caller for ever
        raise
    barrier.wait()
    taken_s = np.empty(requests)
    for index in range(requests):
        started = time.perf_counter()
        infer(single)
        taken_s[index] = time.perf_counter() - started
    return taken_s
