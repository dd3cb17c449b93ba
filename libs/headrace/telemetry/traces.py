"""Traces of a process: spans of every call in and out, written to a file or sent by OTLP."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headrace.rpc.tracing import Tracing, install


def setup_traces(service: str, target: str) -> Callable[[], None]:
    """Trace every call of this process from now on.

    Args:
        service: The name under which the spans appear.
        target: `file:PATH`, or the `http://host:4318` of an OTLP collector.
    Returns:
        A function that writes what is still held back and stops tracing.
    """
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(_exporter(target)))
    install(Tracing(provider.get_tracer("headrace"), TraceContextTextMapPropagator()))

    def close() -> None:
        install(None)
        provider.shutdown()

    return close


def _exporter(target: str) -> SpanExporter:
    if target.startswith("file:"):
        return FileExporter(Path(target.removeprefix("file:")))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=f"{target.rstrip('/')}/v1/traces", timeout=5)


class FileExporter(SpanExporter):
    """Appends spans to a file, one JSON object per line; several processes may share the file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append a batch with a single write, so that lines of two processes do not mix."""
        lines = "".join(f"{span.to_json(indent=None)}\n" for span in spans)
        with self._lock, self._path.open("a") as file:
            file.write(lines)
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Do nothing: the file is open only while it is written."""
