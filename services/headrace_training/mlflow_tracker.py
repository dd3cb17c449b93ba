"""MLflow: rank 0 logs a run's measures to a tracking server or database, from a thread of its own, so that no step waits for it.

What cannot be delivered is dropped and told in the task's log: a tracking server that is down ends no training.
"""

import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import structlog

from headrace.errors import Cancelled

EVERY_S = 1.0  # from one batch to the next
LONGEST_END_S = 10.0  # that the end of a task waits for the last batch
_QUEUED = 10_000  # points; beyond them new ones are dropped
_BATCH = 1000  # MLflow's own bound
_PATIENCE_S = 5.0  # for one request
_RUN_TAG = "headrace.run"
# No report to the makers of MLflow, and no minutes of repetitions: the next batch comes in a second.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": f"{_PATIENCE_S:g}",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
}

log = structlog.get_logger(__name__)


def is_installed() -> bool:
    """Tell whether the extra `mlflow` is installed."""
    return find_spec("mlflow") is not None


@dataclass(frozen=True)
class TrackedRun:
    """What a run is called there: all attempts with the same `key` are one."""

    experiment: str
    name: str
    key: str
    params: Mapping[str, str]


@dataclass(frozen=True)
class _Point:
    name: str
    value: float
    step: int
    time_ms: int


class MlflowTracker:
    """A `Tracker` that logs one run.

    Args:
        uri: Of a tracking server or database, as MLflow takes it.
    """

    def __init__(self, uri: str, run: TrackedRun) -> None:
        self._uri, self._run = uri, run
        self._points: queue.Queue[_Point] = queue.Queue(_QUEUED)
        self._dropped = 0
        self._ended = threading.Event()
        self._status = "FINISHED"
        self._thread = threading.Thread(target=self._deliver, name="mlflow", daemon=True)
        self._thread.start()

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Queue one point of each curve."""
        now_ms = int(time.time() * 1000)
        for name, value in metrics.items():
            try:
                self._points.put_nowait(_Point(name, value, step, now_ms))
            except queue.Full:
                self._dropped += 1

    def close(self, error: BaseException | None) -> None:
        """Deliver what is queued and end the run there, within `LONGEST_END_S`."""
        if error is not None:
            self._status = "KILLED" if isinstance(error, Cancelled) else "FAILED"
        self._ended.set()
        self._thread.join(LONGEST_END_S)
        if self._thread.is_alive() or self._dropped:
            log.warning("mlflow_incomplete", dropped=self._dropped + self._points.qsize())

    def _deliver(self) -> None:
        try:
            client, run_id = self._open()
            while not self._ended.wait(EVERY_S):
                self._log_batches(client, run_id)
            self._log_batches(client, run_id)
            client.set_terminated(run_id, self._status)
        except Exception as error:  # noqa: BLE001 - the top of a thread: whatever MLflow or what is behind it raises, training goes on
            log.warning("mlflow_failed", error=f"{type(error).__name__}: {error}"[:500])
            self._drop_all()

    def _open(self) -> tuple[Any, str]:
        """Return a client and the run's id: that of an earlier attempt, or a new one."""
        os.environ.update(_ENVIRONMENT)
        from mlflow.entities import Param
        from mlflow.tracking import MlflowClient

        client, run = MlflowClient(tracking_uri=self._uri), self._run
        found = client.get_experiment_by_name(run.experiment)
        experiment = found.experiment_id if found else client.create_experiment(run.experiment)
        known = client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{run.key}'", max_results=1)
        if known:
            run_id = str(known[0].info.run_id)
            client.update_run(run_id, status="RUNNING")
            return client, run_id
        run_id = str(client.create_run(experiment, run_name=run.name, tags={_RUN_TAG: run.key}).info.run_id)
        client.log_batch(run_id, params=[Param(name, value) for name, value in run.params.items()])
        return client, run_id

    def _log_batches(self, client: Any, run_id: str) -> None:
        from mlflow.entities import Metric

        while points := self._take():
            client.log_batch(
                run_id, metrics=[Metric(one.name, one.value, one.time_ms, one.step) for one in points]
            )

    def _take(self) -> list[_Point]:
        points: list[_Point] = []
        while len(points) < _BATCH and not self._points.empty():
            points.append(self._points.get_nowait())
        return points

    def _drop_all(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._dropped += len(self._take())
