"""One Attach call of a node: hello, then reports in time; ended when the scheduler falls silent.

The scheduler answers every report with a notice, so a node can tell a frozen scheduler from one that has nothing to say.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from headrace.errors import HeadraceError, Unavailable
from headrace.scheduler.v1 import nodes_pb2, nodes_pb2_grpc

WELCOME_S = 5.0  # the first answer; what follows must come within one lease
# Every call has a deadline: after a day the node attaches anew, with its incarnation.
LONGEST_CALL_S = 86400.0
# Changes closer together than this make one report: 20 a second from one node are enough.
QUICKEST_REPORT_S = 0.05
REPORTS_PER_LEASE = 3


class Conversation:
    """Holds one call open. `hold` runs in the caller's thread, the reader in one of its own, the reports in one of gRPC's."""

    def __init__(
        self,
        stub: nodes_pb2_grpc.NodesStub,
        hello: nodes_pb2.Hello,
        *,
        report: Callable[[], nodes_pb2.Report],
        welcomed: Callable[[float], None],
        forget: Callable[[Sequence[str]], object],
    ) -> None:
        self._stub = stub
        self._hello = hello
        self._report = report
        self._welcomed = welcomed
        self._forget = forget
        self._changed = threading.Condition()
        # All below is guarded by `_changed`.
        self._lease_s = 0.0  # unknown before the welcome
        self._heard = time.monotonic()
        self._due = 0.0
        self._sent = 0
        self._answered = 0
        self._over = False
        self._error: HeadraceError | None = None

    def hold(self) -> None:
        """Attach and stay attached.

        Raises:
            HeadraceError: Why it is over; it returns without an error only after `end`.
        """
        call = self._stub.Attach(self._requests(), timeout=LONGEST_CALL_S)
        reader = threading.Thread(target=self._read, args=(call,), name="node-agent-reader", daemon=True)
        reader.start()
        try:
            self._watch()
        finally:
            self.end()
            call.cancel()
            reader.join()
        if self._error:
            raise self._error

    def report_soon(self) -> None:
        """Send a report as soon as the last one is `QUICKEST_REPORT_S` old."""
        with self._changed:
            self._due = 0.0
            self._changed.notify_all()

    def report_and_wait(self, timeout_s: float) -> bool:
        """Send a report; return whether it was answered in time."""
        with self._changed:
            wanted = self._sent + 1
            self._due = 0.0
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._over or self._answered >= wanted, timeout_s)
            return self._answered >= wanted

    def end(self) -> None:
        """Make every thread of this call return."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _watch(self) -> None:
        """Wait until the call is over or the scheduler has been silent for too long."""
        with self._changed:
            while not self._over:
                patience_s = self._lease_s or WELCOME_S
                left_s = self._heard + patience_s - time.monotonic()
                if left_s <= 0:
                    raise Unavailable(
                        f"the scheduler has not answered for {patience_s:g} s; is its process frozen?"
                    )
                self._changed.wait(left_s)

    def _requests(self) -> Iterator[nodes_pb2.AttachRequest]:
        yield nodes_pb2.AttachRequest(hello=self._hello)
        while self._wait_until_due():
            yield nodes_pb2.AttachRequest(report=self._report())

    def _wait_until_due(self) -> bool:
        """Wait for the next report; return whether there is one."""
        with self._changed:
            earliest = time.monotonic() + QUICKEST_REPORT_S if self._sent else 0.0
            while not self._over:
                left_s = max(self._due, earliest) - time.monotonic()
                if self._lease_s and left_s <= 0:
                    self._sent += 1
                    self._due = time.monotonic() + self._lease_s / REPORTS_PER_LEASE
                    return True
                self._changed.wait(left_s if self._lease_s else None)
            return False

    def _read(self, call: Iterator[nodes_pb2.AttachResponse]) -> None:
        try:
            for response in call:
                self._take(response)
            raise Unavailable("the scheduler ended the call; it will be called again")
        except HeadraceError as error:
            with self._changed:
                self._error = None if self._over else error
        finally:
            self.end()

    def _take(self, response: nodes_pb2.AttachResponse) -> None:
        if response.HasField("welcome"):
            lease_s = response.welcome.lease.ToTimedelta().total_seconds()
            self._welcomed(lease_s)
        else:
            lease_s = self._lease_s
            if response.notice.forget:
                self._forget(list(response.notice.forget))
        with self._changed:
            self._answered += response.HasField("notice")
            self._lease_s = lease_s
            self._heard = time.monotonic()
            self._changed.notify_all()
