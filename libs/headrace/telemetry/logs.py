"""Logs of a process: pretty lines on a terminal, one JSON object per line otherwise.

    log = structlog.get_logger()
    log.info("version_created", version=name, seconds=0.8)

Each line that is logged while a call is served has its rpc, caller, request id and trace id; what libraries log comes out the same way.
"""

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any, TextIO

import structlog
from structlog.typing import Processor

from headrace.rpc.context import served
from headrace.rpc.tracing import current_trace_id

SEVERITIES = ("debug", "info", "warning", "error")


class _Written(logging.Filter):
    """Which severities are written; what is more severe than an error always is."""

    def __init__(self) -> None:
        super().__init__()
        self.severities = frozenset(SEVERITIES)

    def filter(self, record: logging.LogRecord) -> bool:
        return self._has(record.levelname.lower())

    def __call__(self, _: Any, severity: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Drop a line of ours early, before anything is done to it."""
        if self._has(severity):
            return event
        raise structlog.DropEvent

    def _has(self, severity: str) -> bool:
        return severity in self.severities or severity not in SEVERITIES


_written = _Written()  # logs are one per process, as those of the standard library are


def written_severities() -> frozenset[str]:
    """Return the severities that are written now."""
    return _written.severities


def write_severities(severities: Iterable[str]) -> None:
    """Write lines of these severities from now on, and no others: some of `SEVERITIES`."""
    _written.severities = frozenset(severities)
    levels = [logging.getLevelNamesMapping()[severity.upper()] for severity in severities]
    _set_threshold(min(levels, default=logging.CRITICAL))


def _set_threshold(threshold: int) -> None:
    logging.getLogger().setLevel(threshold)
    # Their debug lines are not about our service.
    for library in ("alembic", "grpc", "sqlalchemy", "urllib3"):
        logging.getLogger(library).setLevel(max(threshold, logging.WARNING))


def setup_logs(
    service: str, *, level: str = "info", log_format: str = "auto", stream: TextIO | None = None
) -> None:
    """Send every log line of this process to one place, in one format.

    Args:
        service: Who logs; a field of every JSON line.
        level: debug, info, warning or error: the least severity that is written.
        log_format: pretty, json, or auto: pretty if `stream` is a terminal.
        stream: Where the lines go; standard error if None, so that standard output stays free for answers.
    """
    stream = stream or sys.stderr
    pretty = log_format == "pretty" or (log_format == "auto" and stream.isatty())
    levels = logging.getLevelNamesMapping()
    shared = _shared_processors({} if pretty else {"service": service})
    structlog.configure(
        processors=[_written, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG
        ),  # `write_severities` may want them all
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(shared, pretty=pretty, colors=stream.isatty()))
    handler.addFilter(_written)
    logging.basicConfig(handlers=[handler], force=True)
    write_severities([one for one in SEVERITIES if levels[one.upper()] >= levels[level.upper()]])


def _shared_processors(constants: dict[str, str]) -> list[Processor]:
    """Return what is done to every line, ours or a library's."""

    def add_constants(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.update(constants)
        if trace_id := current_trace_id():
            event["trace_id"] = trace_id
        if call := served.get():
            event.update(rpc=call.method.lstrip("/"), peer=call.peer, request_id=call.request_id)
            if call.principal:
                event["principal"] = call.principal.name
        return event

    return [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_constants,
    ]


def _formatter(shared: list[Processor], *, pretty: bool, colors: bool) -> logging.Formatter:
    # Tracebacks without local variables: those hold tensors and, sooner or later, secrets.
    plain = structlog.dev.plain_traceback
    finish: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
    )
