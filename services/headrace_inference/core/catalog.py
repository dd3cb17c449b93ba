"""Which models a server has, in which state, and whether there is room for one more.

    nothing ── begin_load ──▶ LOADING ── finish_load ──▶ READY ── begin_unload ──▶ UNLOADING ── finish_unload ──▶ nothing
                                 └────── fail_load ────▶ UNAVAILABLE

A model that is READY stays so while another version of it is LOADING beside it, and when that one turns out UNAVAILABLE.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Generic, TypeVar

from headrace.errors import NotFound, ResourceExhausted
from headrace.names import VersionName

MAX_FAILURES = 100  # failed loads that are remembered: whoever looks for the reason looks soon


class State(Enum):
    """What the repository index says of a model."""

    READY = "READY"
    LOADING = "LOADING"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, order=True)
class Key:
    """The name a model is served under, within the project of its callers."""

    project: str
    model: str


class Format(Enum):
    """What kind of file is served; the values are what the protocol calls the platform of a model."""

    ONNX = "onnx"
    TORCH_PROGRAM = "torch_export"
    CONFIG = "config"  # one that says itself what runs: a Python function


@dataclass(frozen=True)
class Declared:
    """A configuration as it was written, and the name of its file."""

    text: bytes
    file: str


@dataclass(frozen=True)
class Source:
    """The file of a version that is served.

    Args:
        size_bytes: Of the file.
        labels: Outputs with names of their classes, and the artifacts that hold these.
    """

    version: VersionName
    file: str
    artifact: str
    size_bytes: int
    format: Format = Format.ONNX
    config: Declared | None = None
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def number(self) -> str:
        """The version as callers name it: "2"."""
        return str(self.version.number)


@dataclass(frozen=True)
class Listing:
    """One line of the repository index.

    Args:
        held_bytes: Memory that the model took when it was loaded; 0 as long as nobody has measured it.
    """

    key: Key
    source: Source
    state: State
    reason: str = ""
    held_bytes: int = 0

    @property
    def bytes(self) -> int:
        """What it counts for: its memory, or the size of its file until that is known."""
        return self.held_bytes or self.source.size_bytes


Served = TypeVar("Served")


@dataclass(frozen=True)
class _Shelf(Generic[Served]):
    listing: Listing
    served: Served


class Catalog(Generic[Served]):
    """The models of a server.

    Args:
        slots: Most models at a time, those that load included.
        max_bytes: Most bytes that they count for together, two versions of one model during a switch included.
    """

    def __init__(self, slots: int, max_bytes: int) -> None:
        self._slots = slots
        self._max_bytes = max_bytes
        self._shelves: dict[Key, _Shelf[Served]] = {}
        self._attempts: dict[Key, Listing] = {}
        self._asked: dict[Key, int] = {}  # when each was asked for last, on a clock of its own
        self._now = 0

    def begin_load(self, key: Key, source: Source) -> None:
        """Make room for a file that will be loaded.

        Raises:
            ResourceExhausted: There is none.
        """
        self._attempts.pop(key, None)
        shortage = self._shortage(key, source, without=())
        if shortage:
            raise shortage
        self._attempts[key] = Listing(key, source, State.LOADING)

    def in_the_way(self, key: Key, source: Source, is_idle: Callable[[Served], bool]) -> list[Key]:
        """Return the idle models that must go, those that were asked for longest ago, for `begin_load` to find room.

        Empty if there is room already, or will be none though all of them go.
        """
        idle = [
            other
            for other, shelf in self._shelves.items()
            if other != key and shelf.listing.state is State.READY and is_idle(shelf.served)
        ]
        idle.sort(key=lambda other: self._asked.get(other, 0))
        for count in range(len(idle) + 1):
            if self._shortage(key, source, without=idle[:count]) is None:
                return idle[:count]
        return []

    def _shortage(self, key: Key, source: Source, without: Collection[Key]) -> ResourceExhausted | None:
        others = [
            one for one in self.listings() if one.state is not State.UNAVAILABLE and one.key not in without
        ]
        if len({one.key for one in others} | {key}) > self._slots:
            return ResourceExhausted(
                f"the server has {self._slots} models already; unload one, or raise SLOTS",
                metadata={"slots": self._slots},
            )
        wanted = source.size_bytes + sum(one.bytes for one in others)
        if wanted > self._max_bytes:
            return ResourceExhausted(
                f"with {source.file!r} the loaded models would have {wanted} bytes, more than the {self._max_bytes} "
                "allowed; unload a model, or raise MAX_MODEL_BYTES",
                metadata={"max_model_bytes": self._max_bytes},
            )
        return None

    def finish_load(self, key: Key, served: Served, held_bytes: int = 0) -> Served | None:
        """Serve what `begin_load` announced; return what was served under this name before."""
        loaded = replace(self._attempts.pop(key), state=State.READY, held_bytes=held_bytes)
        before = self._shelves.get(key)
        self._shelves[key] = _Shelf(loaded, served)
        self._note_asked(key)
        return before.served if before else None

    def fail_load(self, key: Key, reason: str) -> None:
        """Remember why what `begin_load` announced is not served."""
        self._attempts[key] = replace(self._attempts.pop(key), state=State.UNAVAILABLE, reason=reason)
        failed = [one.key for one in self._attempts.values() if one.state is State.UNAVAILABLE]
        for oldest in failed[:-MAX_FAILURES]:
            del self._attempts[oldest]

    def forget_failure(self, key: Key) -> None:
        """Forget why the last try to load something else failed: what is served is what is wished again."""
        self._attempts.pop(key, None)

    def find(self, key: Key, version: str = "") -> Served:
        """Return what answers for a model, and for this version of it if one is named.

        Raises:
            NotFound: It is not loaded, or on its way out.
        """
        shelf = self._shelf(key)
        self._note_asked(key)
        if version not in ("", shelf.listing.source.number):
            raise NotFound(
                f"version {version!r} of model {key.model!r} is not loaded; version {shelf.listing.source.number!r} is"
            )
        return shelf.served

    def ready(self, project: str) -> list[Served]:
        """Return all that answer in a project, by name."""
        shelves = [shelf for key, shelf in sorted(self._shelves.items()) if key.project == project]
        return [shelf.served for shelf in shelves if shelf.listing.state is State.READY]

    def source(self, key: Key) -> Source | None:
        """Return where the served model of this name came from, None if there is none."""
        shelf = self._shelves.get(key)
        return shelf.listing.source if shelf and shelf.listing.state is State.READY else None

    def _shelf(self, key: Key) -> _Shelf[Served]:
        shelf = self._shelves.get(key)
        if shelf and shelf.listing.state is State.READY:
            return shelf
        failed = self._attempts.get(key)
        if failed and failed.reason:
            raise NotFound(f"model {key.model!r} is not loaded; the last try ended with: {failed.reason}")
        ready = [one.key.model for one in self.listings(key.project) if one.state is State.READY]
        loaded = f"loaded are {', '.join(ready)}" if ready else "none is loaded"
        raise NotFound(f"model {key.model!r} is not loaded in project {key.project!r}; {loaded}")

    def begin_unload(self, key: Key) -> Served | None:
        """Take no more requests for a model; return what still answers the ones it has, None if it never loaded.

        Raises:
            NotFound: There is nothing of this name.
        """
        failure = self._attempts.pop(key, None)
        if failure and key not in self._shelves:
            return None
        shelf = self._shelf(key)
        self._shelves[key] = replace(shelf, listing=replace(shelf.listing, state=State.UNLOADING))
        return shelf.served

    def finish_unload(self, key: Key) -> None:
        """Forget a model."""
        self._shelves.pop(key, None)
        self._asked.pop(key, None)

    def _note_asked(self, key: Key) -> None:
        self._now += 1
        self._asked[key] = self._now

    def listings(self, project: str | None = None) -> list[Listing]:
        """List all models, or those of one project, by name; the version that answers comes first."""
        return sorted(self._listings(project), key=lambda one: one.key)

    def _listings(self, project: str | None) -> Iterator[Listing]:
        """Yield those that answer before those that do not, which a stable sort by name preserves."""
        for listing in [*(shelf.listing for shelf in self._shelves.values()), *self._attempts.values()]:
            if project in (None, listing.key.project):
                yield listing
