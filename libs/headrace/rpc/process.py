"""A service as a process: telemetry, server and signals, from `main` to exit status.

    with Process("registry", settings) as process:
        database = open_engine(settings.database_url)
        process.closing(database.dispose)
        process.serve(lambda server: add_ModelsServicer_to_server(ModelsServicer(...), server))

SIGTERM or SIGINT ends `serve` in good order and the process with status 0; a second one ends it at once.
"""

import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import structlog
from google.protobuf.descriptor_pool import DescriptorPool

from headrace.config import ServiceSettings
from headrace.errors import HeadraceError
from headrace.rpc.authorization import Rule
from headrace.rpc.server import AddressUnavailable, Server
from headrace.telemetry.logs import setup_logs
from headrace.telemetry.metrics import new_registry, serve_metrics
from headrace.telemetry.traces import setup_traces

CLOSING_S = 5.0  # after the drain, for closers: a database, a last heartbeat
SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger()


class Process:
    """The process of one service.

    `metrics` is the registry for the service's own metrics. `stopping` is set when the process begins to leave.
    """

    def __init__(self, service: str, settings: ServiceSettings) -> None:
        self.metrics = new_registry()
        self.stopping = threading.Event()
        self._service = service
        self._settings = settings
        self._closers = ExitStack()
        self._exited = threading.Event()
        self._threads_left = False

    def __enter__(self) -> Self:
        settings = self._settings
        setup_logs(self._service, level=settings.log_level, log_format=settings.log_format)
        self._follow_signals()
        if settings.stop_on_stdin_eof:
            threading.Thread(target=self._follow_stdin, daemon=True, name="follow-stdin").start()
        if settings.traces:
            self._set_up_traces()
        if settings.metrics_address:
            self._serve_metrics()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Run the closers in reverse order and turn an error into one line and exit status 1."""
        self.stop()
        self._close()
        if isinstance(error, HeadraceError):
            log.error("process_failed", error=error.message)
        elif isinstance(error, Exception):
            log.error("process_failed", exc_info=error)
        self._exited.set()
        if self._threads_left:  # The interpreter would wait for threads whose handlers never return.
            os._exit(0 if error is None else 1)
        if isinstance(error, Exception):
            sys.exit(1)

    def closing(self, close: Callable[[], object]) -> None:
        """Call `close` when the process ends, after the server has drained; the last one registered goes first."""
        self._closers.callback(close)

    def holding(self, claim: AbstractContextManager[object]) -> None:
        """Enter `claim` now, and leave it when the process ends, as `closing` does."""
        self._closers.enter_context(claim)

    def stop(self) -> None:
        """Begin to leave, as SIGTERM does."""
        self.stopping.set()

    def serve(
        self,
        *register: Callable[[Server], object],
        rules: Mapping[str, Rule] | None = None,
        pools: Sequence[DescriptorPool] = (),
        probes: Collection[str] = (),
        on_listening: Callable[[str], object] | None = None,
    ) -> None:
        """Serve until a signal or `stop`, then drain.

        Args:
            register: Each adds one servicer to the server.
            rules: Access rules for services whose protos declare none.
            pools: Descriptor pools, beside the default one, of services that are served here.
            probes: Rpcs that are answered even when the server is full or draining.
            on_listening: Called with the real address once calls are answered.
        """
        server = self._server(rules, pools, probes)
        for add in register:
            add(server)
        try:
            address = server.start()
        except AddressUnavailable as error:
            self.refuse("address", error)
        gc.collect()
        gc.freeze()  # what was made at start stays: to look for garbage in it again and again costs a small call 2 us of 27
        log.info(
            "listening",
            service=self._service,
            address=address,
            front_end=self._settings.front_end,
            pid=os.getpid(),
        )
        if self._settings.address_file:
            _write_address(Path(self._settings.address_file), address)
        if on_listening is not None:
            on_listening(address)
        self.stopping.wait()
        self._drain(server)

    def _server(
        self, rules: Mapping[str, Rule] | None, pools: Sequence[DescriptorPool], probes: Collection[str]
    ) -> Server:
        return Server(
            self._settings.address,
            max_concurrent_rpcs=self._settings.max_concurrent_rpcs,
            max_message_bytes=self._settings.max_message_bytes,
            rules=rules,
            pools=pools,
            metrics=self.metrics,
            probes=probes,
            turbo=self._settings.front_end == "turbo",
        )

    def _drain(self, server: Server) -> None:
        log.info("draining", bound_s=self._settings.drain_s)
        if not server.drain(self._settings.drain_s):
            log.warning("calls_abandoned", bound_s=self._settings.drain_s)
            self._threads_left = True

    def _set_up_traces(self) -> None:
        try:
            self.closing(setup_traces(self._service, self._settings.traces))
        except OSError as error:
            self.refuse("traces", error)

    def _serve_metrics(self) -> None:
        try:
            address, close = serve_metrics(self._settings.metrics_address, self.metrics)
        except OSError as error:
            self.refuse("metrics_address", error)
        log.debug("metrics_listening", address=address)
        self.closing(close)

    def refuse(self, field: str, error: Exception) -> NoReturn:
        """End the process because a setting, although well formed, does not work on this machine."""
        variable = f"{self._settings.model_config.get('env_prefix', '')}{field}".upper()
        value = getattr(self._settings, field)
        log.error("setting_unusable", variable=variable, value=value, error=str(error))
        sys.exit(1)

    def _follow_signals(self) -> None:
        """Act on signals in a thread of their own.

        A handler in Python runs in the main thread when that next runs at all: a signal that arrives just before the
        main thread begins to wait would be kept until the wait is over. The byte in this pipe comes at once.
        """
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)  # only so that the default, the end, does not happen

        def follow() -> None:
            _next_of(SIGNALS, reading)
            self.stop()
            os._exit(128 + _next_of(SIGNALS, reading))

        threading.Thread(target=follow, daemon=True, name="follow-signals").start()

    def _follow_stdin(self) -> None:
        while os.read(sys.stdin.fileno(), 1 << 12):
            pass
        self.stop()

    def _watch_the_clock(self, bound_s: float) -> None:
        """End the process after `bound_s` even if a closer hangs."""

        def leave() -> None:
            if not self._exited.wait(bound_s):
                log.error("closing_took_too_long", bound_s=bound_s)
                os._exit(1)

        threading.Thread(target=leave, daemon=True, name="leave-in-time").start()

    def _close(self) -> None:
        self._watch_the_clock(CLOSING_S)
        try:
            self._closers.close()
        finally:
            log.info("stopped", service=self._service)


def _next_of(numbers: Collection[int], pipe: int) -> int:
    while (received := os.read(pipe, 1)[0]) not in numbers:
        pass
    return received


def _write_address(path: Path, address: str) -> None:
    """Write the whole address or nothing: a reader that polls the file never sees half of it."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(f"{address}\n")
    fresh.replace(path)
