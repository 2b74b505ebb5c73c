"""Traces by OpenTelemetry, where the environment asks for them: spans of a process, exported by OTLP over HTTP.

The standard variables say where to: OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, with the headers, certificates,
sampler and names that go with them; OTEL_TRACES_EXPORTER = "otlp" asks for the usual endpoint, "none" and OTEL_SDK_DISABLED for no
traces. Where nothing asks, nothing of OpenTelemetry is imported. Spans wait in a bounded queue and are exported by a thread of the
SDK's, so whatever records one waits for nobody.

What a span is the child of in another process travels as 25 bytes: the ids of trace and span, big-endian, and the flags of W3C's
trace context.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_EXPORTER, _DISABLED, _SERVICE = "OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_SERVICE_NAME"
_OTLP = "otlp"


def asked_for(environment: Mapping[str, str]) -> str:
    """Which variable asks for traces; empty where none does."""
    if environment.get(_DISABLED, "").strip().lower() == "true":
        return ""
    exporter = environment.get(_EXPORTER, "").strip().lower()
    if exporter:
        return _EXPORTER if _OTLP in exporter.split(",") else ""
    return next((name for name in _ENDPOINTS if environment.get(name, "").strip()), "")


class Span:
    """Something that takes a while. `parent`: what makes others its children, in other processes, too; empty where the sampler has
    left this one out."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer, self._span = tracer, span

    @property
    def parent(self) -> bytes:
        context = self._span.get_span_context()
        if not context.trace_flags.sampled:
            return b""
        trace, span = int(context.trace_id), int(context.span_id)
        return trace.to_bytes(16, "big") + span.to_bytes(8, "big") + bytes([context.trace_flags])

    def child(self, name: str, begun_s: float | None = None, **attributes: str | int) -> "Span":
        """A part of it, begun now or at `begun_s`, seconds since 1970."""
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(self._span)
        return Span(self._tracer, _started(self._tracer, name, context, begun_s, attributes))

    def note(self, name: str, **attributes: str | int) -> None:
        """Something that happened meanwhile."""
        self._span.add_event(name, _named(attributes))

    def end(self, error: str = "", ended_s: float | None = None) -> None:
        """It is over, now or at `ended_s`; `error`: what went wrong."""
        if error:
            from opentelemetry.trace import Status, StatusCode

            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end(_ns(ended_s))

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A child for as long as the block takes, failed where that raises."""
        child = self.child(name)
        try:
            yield
        except BaseException as error:
            child.end(type(error).__name__)
            raise
        child.end()


class Traces:
    """The spans of this process."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("zowarmup")

    def begin(self, name: str, parent: bytes = b"", begun_s: float | None = None, **attributes: str | int) -> Span:
        """A span of its own or, with `parent`, a child of one in another process."""
        return Span(self._tracer, _started(self._tracer, name, _context(parent), begun_s, attributes))

    def close(self, within_s: float) -> None:
        """Export what is left, for so many seconds at most."""
        # The SDK tries again and again, and takes no limit for all of it.
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(within_s)
        if ending.is_alive():
            log.warning("traces: the last spans could not be exported within %.1f s", within_s)


def traces_of(service: str, environment: Mapping[str, str] = os.environ) -> Traces | None:
    """The traces of this process, None where the environment asks for none, or, with a warning, for what cannot be.

    Args:
        service: What the process is called, where OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES do not say.
        environment: What asks.
    """
    if not (variable := asked_for(environment)):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        log.warning(
            "%s asks for traces, and %s is not installed here: pip install 'zowarmup[otel]', or set OTEL_SDK_DISABLED=true",
            variable,
            error.name,
        )
        return None
    named = _SERVICE in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": service})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)


def _started(tracer: Any, name: str, context: Any, begun_s: float | None, attributes: Mapping[str, str | int]) -> Any:
    return tracer.start_span(name, context, attributes=_named(attributes), start_time=_ns(begun_s))


def _named(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {f"zowarmup.{name}": value for name, value in attributes.items()}


def _ns(seconds: float | None) -> int:
    return time.time_ns() if seconds is None else int(seconds * 1e9)


def _context(parent: bytes) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if not parent:
        return Context()
    found = SpanContext(
        int.from_bytes(parent[:16], "big"),
        int.from_bytes(parent[16:24], "big"),
        is_remote=True,
        trace_flags=TraceFlags(parent[24]),
    )
    return set_span_in_context(NonRecordingSpan(found), Context())
