"""What a demo found, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from headrace.demo.measure import Latency


@dataclass(frozen=True)
class Variant:
    """One file of the optimized version, measured at its own endpoint.

    `metrics` are the program's, computed from the answers of ModelInfer to the whole test split. `verdict` is what the optimizer said of
    it; `served` tells whether it is the one the demo's main deployment serves.
    """

    file: str
    deployment: str
    served: bool
    verdict: str
    size_bytes: int
    metrics: dict[str, float]
    latencies: list[Latency]


@dataclass(frozen=True)
class Stage:
    """A part of the demo and the seconds it took on the clock."""

    name: str
    seconds: float


@dataclass(frozen=True)
class DemoResult:
    """Everything the demo prints."""

    example: str
    version: str
    goal: str
    workers: int
    shards: int
    steps: int
    samples_per_s: float
    attempts: int
    variants: list[Variant]
    stages: list[Stage]
    scheduler_address: str
    registry_address: str
    inference_address: str
    report: str
    plot: str
    folder: str

    def as_json(self) -> dict[str, Any]:
        """Return the same as plain data; seconds, milliseconds and bytes are in the keys' names."""
        return {**asdict(self), "total_seconds": self.total_seconds}

    @property
    def total_seconds(self) -> float:
        """Wall time of all stages."""
        return sum(stage.seconds for stage in self.stages)
