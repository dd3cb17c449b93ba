"""Keeps a set of processes running: starts them in order, restarts one that dies, stops all."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from headrace.errors import FailedPrecondition, Unavailable
from headrace.folder import make
from headrace.local.child import Child, Exit, ProcessSpec
from headrace.local.restarts import RestartPolicy
from headrace.rpc.healthcheck import serving

READY_WITHIN_S = 60.0  # importing torch on a cold, busy disk takes most of it
_POLL_S = 0.05
_PROBE_S = 1.0
_EVENT_WAIT_S = 0.2


class Supervisor:
    """Runs `specs`, logging each to `logs/<name>.log`.

    `announce` is told of every start, exit and restart in one line for people. Use as a context manager: leaving stops all.
    """

    def __init__(
        self, specs: Sequence[ProcessSpec], logs: Path, announce: Callable[[str], None] = lambda _line: None
    ) -> None:
        self._specs = list(specs)
        self._logs = logs
        self._announce = announce
        self._children: dict[str, Child] = {}
        self._policies = {spec.name: RestartPolicy() for spec in specs}
        self._exits: queue.Queue[Exit] = queue.Queue()
        self._stopping = threading.Event()
        self._failure: Exit | None = None
        self._monitor = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def __enter__(self) -> Supervisor:
        make(self._logs)
        try:
            self._start_all()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def specs(self) -> Sequence[ProcessSpec]:
        """What is kept running, in the order of starting."""
        return self._specs

    def pid(self, name: str) -> int:
        """Return the process id of the running child `name`."""
        return self._children[name].pid

    def wait(self, stop: threading.Event) -> None:
        """Block until `stop` is set or a process turns out hopeless.

        Raises:
            FailedPrecondition: A process cannot run with its settings; the message has the end of its log.
        """
        while not stop.wait(_EVENT_WAIT_S):
            self.check()

    def check(self) -> None:
        """Raise FailedPrecondition if a process turned out hopeless."""
        if self._failure is not None:
            child = self._children[self._failure.spec.name]
            raise FailedPrecondition(f"{child.spec.name} cannot start:\n{child.last_lines()}")

    def stop(self, within_s: float = 15.0) -> None:
        """Stop all: those that started last go first, each asked politely, all killed after `within_s`."""
        self._stopping.set()
        if self._monitor.is_alive():
            self._monitor.join()
        deadline = time.monotonic() + within_s
        running = list(reversed(self._children.values()))
        for child in running:
            child.terminate()
        while any(child.alive() for child in running) and time.monotonic() < deadline:
            threading.Event().wait(_POLL_S)
        for child in running:
            child.kill()

    def _start_all(self) -> None:
        """Start the first two (registry, scheduler) before the rest, which look for them, then wait until all answer."""
        self._monitor.start()
        for spec in self._specs:
            self._start(spec)
        deadline = time.monotonic() + READY_WITHIN_S
        for spec in self._specs:
            self._await_ready(spec, deadline)

    def _start(self, spec: ProcessSpec) -> None:
        child = Child(spec, self._logs / f"{spec.name}.log")
        self._children[spec.name] = child
        threading.Thread(
            target=lambda: self._exits.put(child.wait()), name=f"wait-{spec.name}", daemon=True
        ).start()

    def _await_ready(self, spec: ProcessSpec, deadline: float) -> None:
        while not serving(spec.address, _PROBE_S):
            self.check()
            if time.monotonic() > deadline:
                tail = self._children[spec.name].last_lines()
                raise Unavailable(
                    f"{spec.name} did not answer at {spec.address} within {READY_WITHIN_S:.0f} s; its log ends:\n{tail}"
                )
            threading.Event().wait(_POLL_S)

    def _watch(self) -> None:
        due: list[tuple[float, ProcessSpec]] = []
        while not self._stopping.is_set():
            with contextlib.suppress(queue.Empty):
                due.append(self._plan_restart(self._exits.get(timeout=_POLL_S)))
            now = time.monotonic()
            for _, spec in [item for item in due if item[0] <= now]:
                self._start(spec)
                self._announce(f"{spec.name} started again (pid {self.pid(spec.name)})")
            due = [item for item in due if item[0] > now]

    def _plan_restart(self, ended: Exit) -> tuple[float, ProcessSpec]:
        if ended.hopeless:
            self._failure = ended
            return float("inf"), ended.spec
        delay_s = self._policies[ended.spec.name].delay_after(ended.ran_s)
        self._announce(
            f"{ended.spec.name} ended with code {ended.code}; starting it again in {delay_s:.1f} s"
        )
        return time.monotonic() + delay_s, ended.spec
