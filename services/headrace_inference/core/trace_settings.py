"""Which requests are traced: settings of the server, and of models that have some of their own.

The names and values are those of Triton's clients. What a model does not set is as the server has it; what the server does not set is
as it was started.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace.errors import InvalidArgument
from headrace_inference.core.catalog import Key

OFF, TIMESTAMPS = "OFF", "TIMESTAMPS"
LEVELS = (OFF, TIMESTAMPS)
LARGEST = (1 << 31) - 1

# Sets one setting to these values; none take it back to what holds one step further out.
Values = Sequence[str]


@dataclass
class Sampler:
    """Says which of the requests it hears of are traced.

    Args:
        rate: Each how many requests one is.
        remaining: How many more are; None: no bound.
    """

    rate: int
    remaining: int | None
    _seen: int = 0

    def takes_next(self) -> bool:
        """Tell whether the request that comes now is traced."""
        if self.remaining == 0:
            return False
        self._seen += 1
        if self._seen % self.rate:
            return False
        if self.remaining is not None:
            self.remaining -= 1
        return True


class TraceSettings:
    """The settings, and the samplers they make; thread-safe.

    Args:
        trace_file: Where traces are written; empty: into the spans of the calls. It is part of the start of a server: a
            caller who could change it could write files.
    """

    def __init__(self, trace_file: str = "") -> None:
        self._start: dict[str, Values] = {
            "trace_level": (OFF,),
            "trace_rate": ("1000",),
            "trace_count": ("-1",),
            "log_frequency": ("0",),
            "trace_file": (trace_file,),
            "trace_mode": ("triton" if trace_file else "opentelemetry",),
        }
        self._changed: dict[Key | None, dict[str, Values]] = {}  # None: of the server
        self._samplers: dict[Key | None, Sampler | None] = {None: None}  # None: nothing is traced
        self._lock = threading.Lock()

    def change(self, key: Key | None, settings: Mapping[str, Values]) -> dict[str, Values]:
        """Change settings of a model, or (None) of the server, all or none of them; return what holds then.

        Raises:
            InvalidArgument: A setting is not known, cannot be changed while the server runs, or cannot have this value.
        """
        for name, values in settings.items():
            self._check(name, values)
        with self._lock:
            if settings:
                self._apply(key, settings)
            return self._of(key)

    def sampler_takes(self, key: Key) -> bool:
        """Tell whether a request to a model that comes now is traced."""
        sampler = self._samplers.get(key, self._samplers[None])
        if sampler is None:  # nearly always
            return False
        with self._lock:
            return sampler.takes_next()

    def forget(self, key: Key) -> None:
        """Drop the settings of a model that is gone."""
        with self._lock:
            self._changed.pop(key, None)
            self._samplers.pop(key, None)

    def _apply(self, key: Key | None, settings: Mapping[str, Values]) -> None:
        changed = self._changed.setdefault(key, {})
        for name, values in settings.items():
            if values:
                changed[name] = tuple(values)
            else:
                changed.pop(name, None)
        for other in [*self._changed] if key is None else [key]:
            self._renew(other)

    def _renew(self, key: Key | None) -> None:
        if key is not None and not self._changed[key]:
            del self._changed[key]
            self._samplers.pop(key, None)
            return
        self._samplers[key] = _sampler(self._of(key))

    def _of(self, key: Key | None) -> dict[str, Values]:
        return {**self._start, **self._changed.get(None, {}), **self._changed.get(key, {})}

    def _check(self, name: str, values: Values) -> None:
        if name not in self._start:
            raise _refusal(name, f"is not known; known are {', '.join(self._start)}")
        if name in ("trace_file", "trace_mode"):
            raise _refusal(name, "is fixed when the server starts; see HEADRACE_INFERENCE_TRACE_FILE")
        if not values:
            return
        if name == "trace_level":
            for value in values:
                if value not in LEVELS:
                    raise _refusal(name, f"cannot be {value!r}; it is one of {', '.join(LEVELS)}")
            return
        least = {"trace_rate": 1, "trace_count": -1, "log_frequency": 0}[name]
        if len(values) > 1 or not _is_between(values[0], least, LARGEST):
            raise _refusal(
                name, f"cannot be {', '.join(values)!r}; it is one number from {least} to {LARGEST}"
            )


def _is_between(text: str, least: int, largest: int) -> bool:
    try:
        return least <= int(text) <= largest
    except ValueError:
        return False


def _sampler(settings: Mapping[str, Values]) -> Sampler | None:
    if OFF in settings["trace_level"]:
        return None
    count = int(settings["trace_count"][0])
    return Sampler(int(settings["trace_rate"][0]), count if count >= 0 else None)


def _refusal(name: str, why: str) -> InvalidArgument:
    return InvalidArgument(f"trace setting {name!r} {why}", field="settings")
