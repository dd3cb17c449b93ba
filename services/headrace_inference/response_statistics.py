"""What became of the answers of a model that gives any number of them, by their position."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace_inference.statistics import NS, Duration

# Positions up to this are told apart, all further ones are counted together: a stream may be endless.
EXACT_POSITIONS = 256


@dataclass
class Responses:
    """Of one position: how often what happened, and how long it took.

    Args:
        infer: Until the model gave an answer or ended.
        output: Until an answer was on its way.
        success, fail, empty, cancel: Answers that were sent, errors, ends without an answer, answers that nobody waited for.
    """

    infer: Duration = field(default_factory=Duration)
    output: Duration = field(default_factory=Duration)
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    empty: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)


class ResponseStatistics:
    """Counts; thread-safe. All times are in seconds."""

    def __init__(self) -> None:
        self._responses: defaultdict[int, Responses] = defaultdict(Responses)
        self._lock = threading.Lock()

    def sent(self, position: int, infer_s: float, output_s: float) -> None:
        """Count an answer that is on its way."""
        with self._lock:
            counted = self._of(position)
            counted.infer += _once(infer_s)
            counted.output += _once(output_s)
            counted.success += _once(infer_s + output_s)

    def failed(self, position: int, infer_s: float) -> None:
        """Count an error instead of an answer."""
        with self._lock:
            self._of(position).fail += _once(infer_s)

    def ended(self, position: int, infer_s: float) -> None:
        """Count the end of a request's answers."""
        with self._lock:
            self._of(position).empty += _once(infer_s)

    def cancelled(self, position: int, infer_s: float) -> None:
        """Count an answer that nobody waits for."""
        with self._lock:
            self._of(position).cancel += _once(infer_s)

    def snapshot(self) -> Mapping[int, Responses]:
        """Return what was counted so far, by position."""
        with self._lock:
            return {
                position: Responses(**vars(counted)) for position, counted in sorted(self._responses.items())
            }

    def _of(self, position: int) -> Responses:
        return self._responses[min(position, EXACT_POSITIONS)]


def _once(seconds: float) -> Duration:
    return Duration(1, round(seconds * NS))
