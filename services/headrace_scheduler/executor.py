"""Carries out commands, each node's in order and none behind another node's.

A node that is slow or frozen holds up its own lane only. A lane has one thread while it has work; there is one lane for
each attached node and one for the registry, so there are never more threads than open Attach calls plus one. `abandon`
voids what a lane has: its channel is closed, so that the call under way ends at once.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable

import grpc
import structlog

from headrace.errors import HeadraceError, Unavailable
from headrace.rpc.channel import open_channel
from headrace_scheduler.calls import perform
from headrace_scheduler.core import reasons
from headrace_scheduler.core.commands import Issued
from headrace_scheduler.core.events import CommandDone
from headrace_scheduler.core.jobs import Failure

log = structlog.get_logger(__name__)

Done = Callable[[CommandDone], None]


class Executor:
    """Runs commands in the background.

    Args:
        registry_address: Where ResolveVersion goes; empty: it fails.
        done: Called with every answer, from a lane's thread. Answers of an abandoned lane come too.
    """

    def __init__(self, registry_address: str, done: Done) -> None:
        self._registry_address = registry_address
        self._done = done
        self._lanes: dict[str, _Lane] = {}
        self._lock = threading.Lock()
        self._closed = False

    def run(self, commands: Iterable[Issued]) -> None:
        """Queue commands; returns at once."""
        with self._lock:
            if self._closed:
                return
            for issued in commands:
                node = issued.command.target.node
                if node not in self._lanes:
                    self._lanes[node] = _Lane(node, self._done)
                self._lanes[node].put(issued, issued.command.target.address or self._registry_address)

    def abandon(self, nodes: Iterable[str]) -> None:
        """Drop what these nodes still have to do."""
        with self._lock:
            lanes = [self._lanes.pop(node) for node in nodes if node in self._lanes]
        for lane in lanes:
            lane.close()

    def close(self) -> None:
        """Drop everything and take nothing more."""
        with self._lock:
            self._closed = True
            lanes, self._lanes = list(self._lanes.values()), {}
        for lane in lanes:
            lane.close()


class _Lane:
    """The commands of one process, in order."""

    def __init__(self, node: str, done: Done) -> None:
        self._node = node
        self._done = done
        self._queue: deque[tuple[Issued, str]] = deque()
        self._channel: tuple[str, grpc.Channel] | None = None
        self._lock = threading.Lock()
        self._busy = False
        self._closed = False

    def put(self, issued: Issued, address: str) -> None:
        with self._lock:
            self._queue.append((issued, address))
            if not self._busy:
                self._busy = True
                threading.Thread(
                    target=self._work, name=f"lane-{self._node or 'registry'}", daemon=True
                ).start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._queue.clear()
            if self._channel:
                self._channel[1].close()

    def _work(self) -> None:
        while (item := self._next()) is not None:
            issued, address = item
            self._done(self._perform(issued, address))

    def _next(self) -> tuple[Issued, str] | None:
        with self._lock:
            if not self._queue:
                self._busy = False
                return None
            return self._queue.popleft()

    def _perform(self, issued: Issued, address: str) -> CommandDone:
        """Make the call, and put whatever comes of it into an event."""
        kind = type(issued.command).__name__
        try:
            version = perform(issued.command, self._open(address))
        except HeadraceError as error:
            log.info(
                "command_failed", command=kind, node=self._node, reason=error.reason, error=error.message
            )
            return CommandDone(issued, Failure(error.reason, error.message))
        except ValueError:  # grpc's "cannot invoke RPC on closed channel"
            return CommandDone(issued, Failure(reasons.CANCELLED, f"{self._node} was given up"))
        except Exception:
            # The top of the lane's thread: were it to end here, its node would never be told anything again.
            log.exception("command_crashed", command=kind, node=self._node)
            return CommandDone(
                issued, Failure(reasons.INTERNAL, f"{kind} failed inside the scheduler; see its log")
            )
        log.debug("command_done", command=kind, node=self._node)
        return CommandDone(issued, version=version)

    def _open(self, address: str) -> grpc.Channel:
        with self._lock:
            if self._closed:
                raise Unavailable(f"{self._node} was given up")
            if self._channel is None or self._channel[0] != address:
                if self._channel:
                    self._channel[1].close()
                self._channel = (address, open_channel(address))
            return self._channel[1]
