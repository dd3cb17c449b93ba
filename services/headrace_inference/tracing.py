"""Traces of single requests: when each of its stages began, in a file or as events of the span of its call."""

import itertools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from headrace.rpc.tracing import add_events
from headrace_inference.core.catalog import Key
from headrace_inference.core.trace_settings import TraceSettings

# Stages, in the words of Triton's traces.
REQUEST_START, QUEUE_START, COMPUTE_END, REQUEST_END = (
    "REQUEST_START",
    "QUEUE_START",
    "COMPUTE_END",
    "REQUEST_END",
)


class Trace:
    """One request's stages; `end` writes them."""

    def __init__(self, finish: "Callable[[Trace], None]", model: str, clock: Callable[[], int]) -> None:
        self.model = model
        self.version = ""
        self.stages: list[tuple[str, int]] = []
        self._finish = finish
        self._clock = clock
        self.mark(REQUEST_START)

    def mark(self, stage: str) -> None:
        """Take note that a stage begins now."""
        self.stages.append((stage, self._clock()))

    def end(self, version: str) -> None:
        """Write what there is, of a request that this version of the model answered."""
        self.version = version
        self.mark(REQUEST_END)
        self._finish(self)


class Tracer:
    """Traces the requests that the settings choose.

    Args:
        clock: Tells the time, in nanoseconds since 1970.
    """

    def __init__(self, settings: TraceSettings, clock: Callable[[], int] = time.time_ns) -> None:
        self.settings = settings
        self._clock = clock
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def begin(self, key: Key) -> Trace | None:
        """Begin the trace of a request, if it is traced."""
        if not self.settings.sampler_takes(key):
            return None
        settings = self.settings.change(key, {})
        file, frequency = settings["trace_file"][0], int(settings["log_frequency"][0])
        if not file:
            return Trace(lambda trace: add_events(trace.stages), key.model, self._clock)
        return Trace(lambda trace: self._write(trace, file, frequency), key.model, self._clock)

    def _write(self, trace: Trace, file: str, frequency: int) -> None:
        """Append two lines; with a frequency, to the file that has its turn."""
        number = next(self._ids)
        path = Path(f"{file}.{(number - 1) // frequency}" if frequency else file)
        lines = [
            {"id": number, "model_name": trace.model, "model_version": trace.version},
            {"id": number, "timestamps": [{"name": name, "ns": ns} for name, ns in trace.stages]},
        ]
        with self._lock, path.open("a") as out:
            out.write("".join(f"{json.dumps(line)}\n" for line in lines))
