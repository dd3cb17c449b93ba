"""Every call that moves values passes here: is it within its project's quota, and how much did it move, for whom?"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from headrace_parameters.core.config import StoreConfig
from headrace_parameters.metrics import ParameterMetrics
from headrace_parameters.quotas import Quotas


@dataclass(frozen=True)
class Traffic:
    """What has passed since a store was made; staleness is that of its last answer with values, in steps."""

    pushes: int = 0
    duplicates: int = 0
    pulls: int = 0
    not_modified: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0
    staleness: int = 0


class Meter:
    """Counts for the process, for each store, and for the quotas of projects.

    Args:
        stores: Returns what is held; what is not is forgotten.
    """

    def __init__(
        self,
        metrics: ParameterMetrics,
        quotas: Quotas,
        stores: Callable[[], Iterable[StoreConfig]],
    ) -> None:
        self._metrics = metrics
        self._quotas = quotas
        self._stores = stores
        self._lock = threading.Lock()
        self._traffic: dict[tuple[str, int], Traffic] = {}

    def admit(self, store: StoreConfig) -> None:
        """Let a call in; QuotaExceeded says when to come again."""
        self._quotas.admit(store.name.project)

    def of(self, store: StoreConfig) -> Traffic:
        """Return what has passed."""
        with self._lock:
            return self._traffic.get(_key(store), Traffic())

    def received(self, store: StoreConfig, size_bytes: int) -> None:
        """Count bytes of gradients and first values."""
        self._metrics.received_bytes.inc(size_bytes)
        self._quotas.spend_bytes(store.name.project, size_bytes)
        self._add(store, received_bytes=size_bytes)

    def pushed(self, store: StoreConfig, *, duplicate: bool) -> None:
        """Count a gradient."""
        (self._metrics.duplicates if duplicate else self._metrics.pushes).inc()
        self._add(store, pushes=not duplicate, duplicates=duplicate)

    def waited(self, seconds: float) -> None:
        """Count the time a pull waited."""
        self._metrics.wait_seconds.observe(seconds)

    def sent(self, store: StoreConfig, staleness: int, size_bytes: int) -> None:
        """Count an answer with values."""
        self._metrics.pulls.inc()
        self._metrics.sent_bytes.inc(size_bytes)
        self._metrics.staleness.labels(store.consistency.value).observe(staleness)
        self._quotas.spend_bytes(store.name.project, size_bytes)
        self._add(store, staleness, pulls=1, sent_bytes=size_bytes)

    def not_modified(self, store: StoreConfig) -> None:
        """Count an answer that the caller has the newest values."""
        self._metrics.not_modified.inc()
        self._add(store, not_modified=1)

    def _add(self, store: StoreConfig, staleness: int | None = None, **more: int) -> None:
        key = _key(store)
        with self._lock:
            if key not in self._traffic:
                self._forget_others()
            known = self._traffic.get(key, Traffic())
            counts = {name: getattr(known, name) + count for name, count in more.items()}
            self._traffic[key] = replace(
                known, **counts, staleness=known.staleness if staleness is None else staleness
            )

    def _forget_others(self) -> None:
        held = {_key(store) for store in self._stores()}
        self._traffic = {key: traffic for key, traffic in self._traffic.items() if key in held}


def _key(store: StoreConfig) -> tuple[str, int]:
    return str(store.name), store.epoch
