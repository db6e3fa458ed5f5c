"""`ports.tracing.Tracer` on the OpenTelemetry SDK: extra `narthex[otel]`.

Not here: which variables turn it on (`settings/tracing.py`), the queue in front of the exporter (`span_queue.py`).
Rules: the decision whether a trace is recorded falls once, in `begin`, before any span is made: an unrecorded one
costs a sampler's answer and a tuple, and its children nothing. Every text in a span passes the logs' redaction.
Libraries in agents find the SDK's global provider, which has the same exporter, and continue the trace of their task.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple

import msgspec
from opentelemetry import trace as api
from opentelemetry.context import Context, attach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SynchronousMultiSpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, TraceIdRatioBased
from opentelemetry.trace.span import TraceState

from narthex._version import __version__
from narthex.adapters.telemetry.redaction import REDACTOR
from narthex.adapters.telemetry.span_queue import SpanQueue
from narthex.app.buffers import buffer_readings
from narthex.app.entropy import ENTROPY
from narthex.domain.traces import TraceContext
from narthex.ports.telemetry import Meter
from narthex.ports.tracing import CURRENT, Attributes, Kind, Span, Value

STOP_S: Final = 2.0
"""For the last batch. A drain has 10 s, and its last second belongs to the exit (`wiring/parts.py`)."""
MAX_TEXT: Final = 256  # of one attribute: names and ids are shorter, and some are an agent's
WANTED_PER_S: Final = 10.0
"""Spans a second beyond the sampler's: refusals, so that the trace id in one usually finds its trace, and a flood of
them does not fill the collector."""
WANTED_BURST: Final = 50.0

_KINDS: Final[dict[Kind, api.SpanKind]] = {
    "internal": api.SpanKind.INTERNAL,
    "server": api.SpanKind.SERVER,
    "client": api.SpanKind.CLIENT,
    "producer": api.SpanKind.PRODUCER,
    "consumer": api.SpanKind.CONSUMER,
}
_IDS: Final = (".id", "_id")  # random by design, and meant to be read
_UNNAMED: Final = "unknown_service"  # the SDK's name for it
_NOWHERE: Final = Context()  # without a span: the parent is always given, never what happens to be current
_SAMPLED: Final = api.TraceFlags(api.TraceFlags.SAMPLED)
_NOT_SAMPLED: Final = api.TraceFlags(api.TraceFlags.DEFAULT)


class SamplingRule(NamedTuple):
    """The six samplers of the specification as two numbers: asking the SDK's would be half of what tracing costs.

    Attributes:
        bound: a trace is recorded if the last 64 bits of its id are below.
        follows: whether a parent's decision holds instead.
    """

    bound: int
    follows: bool

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> SamplingRule:
        """By `OTEL_TRACES_SAMPLER` and its argument, which the settings have checked."""
        name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
        ratio = 0.0 if name.endswith("always_off") else 1.0
        if name.endswith("traceidratio"):
            ratio = float(environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or 1)
        return cls(TraceIdRatioBased.get_bound_for_rate(ratio), name.startswith("parentbased_"))

    def records(self, trace_id: str, parent: TraceContext | None, *, trusted: bool) -> bool:
        """Whether a trace is recorded, by the first of its spans in this process."""
        if parent is None:
            return int(trace_id[16:], 16) < self.bound
        if trusted:
            return parent.sampled if self.follows else int(trace_id[16:], 16) < self.bound
        # A client may have chosen an id that the sampler takes.
        return int.from_bytes(ENTROPY.take(8)) < self.bound


class _Ids(RandomIdGenerator):
    """Gives the next root span the trace id that its caller has chosen."""

    def __init__(self) -> None:
        self.next_trace = 0

    def generate_trace_id(self) -> int:
        """See `IdGenerator`."""
        chosen, self.next_trace = self.next_trace, 0
        return chosen or super().generate_trace_id()


class OtelTracer:
    """See the module. Made and used on the event loop's thread.

    Args:
        meter: counts the fate of spans.
        exporter: instead of the OTLP exporter (tests, benchmarks).
        environ: the process's; the SDK reads most of it by itself.
        share: whether the process is narthex's own: then libraries find this provider as OpenTelemetry's global one.
    """

    enabled: Final = True

    def __init__(
        self,
        meter: Meter,
        *,
        exporter: SpanExporter | None = None,
        environ: Mapping[str, str] = os.environ,
        share: bool = True,
    ) -> None:
        self._meter = meter
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exporter = exporter or OTLPSpanExporter()
        queue = self._queue = SpanQueue(self._exporter, self._count, environ)
        meter.read_from(partial(buffer_readings, [("span_queue", lambda: queue.pending, queue.limit)]))
        processor = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]
        processor.add_span_processor(self._queue)
        resource = _resource(environ)
        shared = TracerProvider(
            resource=resource, active_span_processor=processor, shutdown_on_exit=False
        )  # with the sampler of OTEL_TRACES_SAMPLER
        self._ids = _Ids()
        own = TracerProvider(
            sampler=ALWAYS_ON,  # `begin` has decided
            resource=resource,
            active_span_processor=processor,
            id_generator=self._ids,
            shutdown_on_exit=False,
        )
        self._tracer = own.get_tracer("narthex", __version__)
        self._rule = SamplingRule.of(environ)
        self._allowance, self._allowed_at = WANTED_BURST, time.monotonic()
        if share and isinstance(api.get_tracer_provider(), api.ProxyTracerProvider):
            api.set_tracer_provider(shared)

    async def start(self) -> None:
        """Begin to export."""
        self._loop = asyncio.get_running_loop()
        self._queue.start()

    async def stop(self) -> None:
        """Export what is left, for at most `STOP_S`."""
        await asyncio.to_thread(self._queue.stop, STOP_S)

    def begin(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        trace_id: str = "",
        parent: TraceContext | None = None,
        trusted: bool = False,
        wanted: bool = False,
        links: Sequence[TraceContext] = (),
        age_s: float = 0.0,
    ) -> Span:
        """See the port."""
        if parent is not None:
            trace_id = parent.trace_id
        elif not trace_id:
            trace_id = ENTROPY.take(16).hex()
        if not self._rule.records(trace_id, parent, trusted=trusted) and not (
            wanted and self._rule.bound and self._allow()
        ):
            return _Unrecorded(trace_id, "" if parent is None else parent.state)
        if parent is None:
            self._ids.next_trace = int(trace_id, 16)
        span = self._tracer.start_span(
            name,
            _NOWHERE if parent is None else _after(parent),
            _KINDS[kind],
            links=_links(links),
            start_time=_nanoseconds(time.time() - age_s),
        )
        return _Recorded(self._tracer, span)

    def _allow(self) -> bool:
        now = time.monotonic()
        earned = (now - self._allowed_at) * WANTED_PER_S
        self._allowance, self._allowed_at = min(WANTED_BURST, self._allowance + earned), now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

    def _count(self, result: str, number: int) -> None:
        """On the queue's thread; the meter belongs to the loop's."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: no scraper is left
                self._loop.call_soon_threadsafe(
                    lambda: self._meter.count("trace_spans", number, result=result)
                )


class _Unrecorded(msgspec.Struct, gc=False):
    """A span of a trace that is not recorded: its position goes on, so that no other process records a part of it.

    Every connection holds one. It refers to nothing that could refer back to it, so the cycle collector need not
    track it.
    """

    _trace_id: str
    _state: str
    _context: TraceContext | None = None
    recording: ClassVar[bool] = False

    @property
    def context(self) -> TraceContext:
        """See the port; made when it is asked for, which most handshakes are never."""
        if self._context is None:
            self._context = TraceContext(self._trace_id, ENTROPY.take(8).hex(), False, self._state)
        return self._context

    def child(self, name: str, **_: Any) -> Span:  # noqa: ARG002 - as in the port
        """See the port."""
        return self

    def rename(self, name: str) -> None:
        """See the port."""

    def set(self, attributes: Attributes) -> None:
        """See the port."""

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """See the port."""

    def end(self, *, error: str = "", ended_at: float | None = None) -> None:
        """See the port."""

    def enter(self) -> None:
        """See the port."""
        CURRENT.set(self)
        attach(_after(self.context))


class _Recorded:
    """A recorded span."""

    __slots__ = ("_span", "_tracer", "context")
    recording: Final = True

    def __init__(self, tracer: api.Tracer, span: api.Span) -> None:
        self._tracer = tracer
        self._span = span
        own = span.get_span_context()
        self.context: TraceContext | None = TraceContext(
            f"{own.trace_id:032x}", f"{own.span_id:016x}", True, own.trace_state.to_header()
        )

    def child(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        started_at: float | None = None,
    ) -> Span:
        """See the port."""
        return _Recorded(
            self._tracer,
            self._tracer.start_span(
                _text(name),
                api.set_span_in_context(self._span, _NOWHERE),
                _KINDS[kind],
                _clean(attributes),
                start_time=_nanoseconds(started_at),
            ),
        )

    def rename(self, name: str) -> None:
        """See the port."""
        if self._span.is_recording():
            self._span.update_name(_text(name))

    def set(self, attributes: Attributes) -> None:
        """See the port."""
        if self._span.is_recording():  # else the SDK logs a warning
            self._span.set_attributes(_clean(attributes))

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """See the port."""
        if self._span.is_recording():
            self._span.add_event(name, _clean(attributes))

    def end(self, *, error: str = "", ended_at: float | None = None) -> None:
        """See the port."""
        if not self._span.is_recording():
            return
        if error:
            self._span.set_attribute("error.type", _text(error))
            self._span.set_status(api.StatusCode.ERROR)
        self._span.end(_nanoseconds(ended_at))

    def enter(self) -> None:
        """See the port."""
        CURRENT.set(self)
        attach(api.set_span_in_context(self._span))


def _resource(environ: Mapping[str, str]) -> Resource:
    """The SDK's, by `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`; narthex's own where they name none."""
    given = Resource.create().attributes
    own = {
        "service.name": environ.get("K_SERVICE") or "narthex",
        "service.version": __version__,
        "service.instance.id": ENTROPY.uuid4(),  # one of several workers or nodes
    }
    return Resource.create({k: v for k, v in own.items() if str(given.get(k, _UNNAMED)).startswith(_UNNAMED)})


def _after(parent: TraceContext) -> Context:
    """The SDK's context with a span of another process."""
    state = TraceState.from_header([parent.state]) if parent.state else None
    flags = _SAMPLED if parent.sampled else _NOT_SAMPLED
    found = api.SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), True, flags, state)
    return api.set_span_in_context(api.NonRecordingSpan(found), _NOWHERE)


def _links(contexts: Sequence[TraceContext]) -> list[api.Link]:
    return [api.Link(api.get_current_span(_after(context)).get_span_context()) for context in contexts]


def _nanoseconds(moment: float | None) -> int | None:
    return None if moment is None else int(moment * 1e9)


def _clean(attributes: Attributes | None) -> dict[str, Any]:
    """Attributes whose texts are bounded and redacted."""
    return {name: _value(name, value) for name, value in attributes.items()} if attributes else {}


def _value(name: str, value: Value) -> Any:
    if isinstance(value, str):
        return _text(value, ids=name.endswith(_IDS))
    return value if isinstance(value, int | float) else [_text(item) for item in value]


def _text(text: str, *, ids: bool = False) -> str:
    return REDACTOR.line(text[:MAX_TEXT], ids=ids)
