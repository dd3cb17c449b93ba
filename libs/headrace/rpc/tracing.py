"""Spans of calls on both sides, joined by the W3C `traceparent` in the metadata.

Off until `headrace.telemetry.traces.setup_traces` installs a tracer: a client that traces nothing never imports
OpenTelemetry. See docs/decisions/0005-own-tracing-interceptors.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

    from headrace.rpc.layers import Call


class Propagator(Protocol):
    """The part of an OpenTelemetry propagator that is used here."""

    def inject(self, carrier: dict[str, str]) -> None:
        """Write the current span's context into `carrier`."""

    def extract(self, carrier: dict[str, str]) -> Context:
        """Read the context of a span elsewhere."""


@dataclass(frozen=True)
class Tracing:
    """What is needed to trace: a tracer and the way its contexts travel."""

    tracer: Tracer
    propagator: Propagator


_installed: Tracing | None = None


def install(tracing: Tracing | None) -> None:
    """Trace all calls of this process from now on; None stops it."""
    global _installed  # noqa: PLW0603 - OpenTelemetry's own tracer is one per process as well
    _installed = tracing


class Traced:
    """The observer that has a call run inside a server span, the child of the caller's span."""

    def enter(self, call: Call) -> None:
        """Begin the span."""
        if _installed is None:
            return
        from opentelemetry.trace import SpanKind

        carrier = {key: call.metadata(key) for key in ("traceparent", "tracestate") if call.metadata(key)}
        parent = _installed.propagator.extract(carrier)
        call.span = _installed.tracer.start_as_current_span(
            call.method.lstrip("/"),
            parent,
            SpanKind.SERVER,
            record_exception=False,
            set_status_on_exception=False,
        )
        call.span.__enter__()

    def leave(self, call: Call) -> None:
        """End it with the call's code."""
        if call.span is None:
            return
        from opentelemetry.trace import get_current_span

        end_span(get_current_span(), call.code)
        call.span.__exit__(None, None, None)


@contextmanager
def client_span(method: str) -> Iterator[tuple[Span | None, list[tuple[str, str]]]]:
    """Begin the span of an outgoing call; give it and the metadata that carries it.

    Whoever enters ends the span with `end_span` when the call is over, which may be after the block.
    """
    if _installed is None:
        yield None, []
        return
    from opentelemetry.trace import SpanKind, use_span

    span = _installed.tracer.start_span(method.lstrip("/"), kind=SpanKind.CLIENT)
    carrier: dict[str, str] = {}
    with use_span(span, record_exception=False, set_status_on_exception=False):
        _installed.propagator.inject(carrier)
        yield span, list(carrier.items())


def end_span(span: Span | None, code: str) -> None:
    """Write a call's canonical code into its span and end it."""
    if span is None or not span.is_recording():
        return
    from opentelemetry.trace import StatusCode

    span.set_attribute("rpc.system.name", "grpc")
    span.set_attribute("rpc.response.status_code", code)
    if code != "OK":
        span.set_status(StatusCode.ERROR, code)
    span.end()


def add_events(events: Iterable[tuple[str, int]]) -> None:
    """Add events to the span of what this thread works for: names, and nanoseconds since 1970."""
    if _installed is None:
        return
    from opentelemetry.trace import get_current_span

    span = get_current_span()
    for name, ns in events:
        span.add_event(name, timestamp=ns)


def current_trace_id() -> str:
    """Return the trace this thread works for, as 32 hex digits; empty if there is none."""
    if _installed is None:
        return ""
    from opentelemetry.trace import format_trace_id, get_current_span

    context = get_current_span().get_span_context()
    return format_trace_id(context.trace_id) if context.is_valid else ""
