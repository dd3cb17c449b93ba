"""The agent: keeps this process attached to its scheduler as a node, for as long as the process lives.

with Agent(settings.scheduler_address, settings.hello("training", NODE_KIND_TRAINING, server.address),
           report=table.report, forget=table.forget) as agent:
    table.on_change(agent.changed)
    ...
    agent.leaving()     # at SIGTERM, before the server drains; `headrace.node.join` does it for a `Process`
"""

import random
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import structlog

from headrace.errors import HeadraceError
from headrace.node.conversation import Conversation
from headrace.pauses import Pauses
from headrace.rpc.channel import open_channel
from headrace.scheduler.v1 import nodes_pb2, nodes_pb2_grpc

# A scheduler that comes back finds its nodes within half of the default lease.
PAUSES = Pauses(first_s=0.1, longest_s=2.0)

log = structlog.get_logger(__name__)


class Agent:
    """Holds a node's lease from a thread of its own: reports, reconnects, passes on what may be forgotten.

    Args:
        scheduler_address: host:port; empty: the node is alone, and every method does nothing.
        hello: Who this process is.
        report: Called for each report, from the agent's threads; must not block.
        forget: Called with names of final tasks that the scheduler has recorded; a node without tasks needs none.
    """

    def __init__(
        self,
        scheduler_address: str,
        hello: nodes_pb2.Hello,
        *,
        report: Callable[[], nodes_pb2.Report],
        forget: Callable[[Sequence[str]], object] = lambda _tasks: None,
    ) -> None:
        self.attached = threading.Event()  # set while the scheduler holds our lease
        self._address = scheduler_address
        self._hello = hello
        self._report = report
        self._forget = forget
        self._leaving = False
        self._closing = threading.Event()
        self._conversation: Conversation | None = None
        self._lock = threading.Lock()
        self._complaint = ""
        self._thread = threading.Thread(target=self._run, name="node-agent", daemon=True)

    def start(self) -> None:
        """Begin to attach; returns at once."""
        if self._address:
            self._thread.start()

    def changed(self) -> None:
        """Report soon: calls in quick succession make one report."""
        with self._lock:
            conversation = self._conversation
        if conversation:
            conversation.report_soon()

    def leaving(self, timeout_s: float = 2) -> bool:
        """Report that the process shuts down, now and from now on; return whether the scheduler heard it in time."""
        self._leaving = True
        with self._lock:
            conversation = self._conversation
        return conversation is not None and conversation.report_and_wait(timeout_s)

    def close(self) -> None:
        """Detach. The lease runs out by itself: whoever shuts down in order calls `leaving` first."""
        self._closing.set()
        with self._lock:
            conversation = self._conversation
        if conversation:
            conversation.end()
        if self._thread.ident is not None:
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        pauses = iter(PAUSES)
        while not self._closing.is_set():
            began = time.monotonic()
            self._attach()
            if time.monotonic() - began > PAUSES.longest_s:
                pauses = iter(PAUSES)
            # Jitter: when a scheduler restarts, its nodes do not all come in the same instant.
            self._closing.wait(next(pauses) * random.uniform(0.5, 1))  # noqa: S311 - not a secret

    def _attach(self) -> None:
        """Keep one call to the scheduler open until it breaks."""
        with open_channel(self._address) as channel:
            conversation = Conversation(
                nodes_pb2_grpc.NodesStub(channel),
                self._hello,
                report=self._make_report,
                welcomed=self._welcomed,
                forget=self._forget,
            )
            with self._lock:
                self._conversation = conversation
            try:
                if not self._closing.is_set():
                    conversation.hold()
            except HeadraceError as error:
                self._complain(error)
            finally:
                self.attached.clear()
                with self._lock:
                    self._conversation = None

    def _make_report(self) -> nodes_pb2.Report:
        report = self._report()
        if self._leaving:
            report.leaving = True
        return report

    def _welcomed(self, lease_s: float) -> None:
        self._complaint = ""
        self.attached.set()
        log.info("node_attached", node=self._hello.node, scheduler=self._address, lease_s=lease_s)

    def _complain(self, error: HeadraceError) -> None:
        """Log why the node is not attached, once for each reason: a scheduler may be away for hours."""
        if error.reason != self._complaint and not self._closing.is_set():
            self._complaint = error.reason
            log.warning("node_detached", node=self._hello.node, scheduler=self._address, why=error.message)
