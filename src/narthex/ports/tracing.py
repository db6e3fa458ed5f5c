"""The interface of tracing: spans, and the span of the work at hand.

Not here: an exporter (`adapters/telemetry/otel.py`), the form of a trace context (`domain/traces.py`). Guarantees: no
method raises or waits; an exporter that is slow or away costs spans, which are counted, and nothing else; attributes
are names, numbers and ids, never a credential, a header value or a text of a user or an agent. Without an exporter
every span is `NO_SPAN`, and handing it around is all that tracing costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Literal, Protocol, TypeAlias

from narthex.domain.traces import TraceContext

Value: TypeAlias = str | int | float | bool | Sequence[str]
Attributes: TypeAlias = Mapping[str, Value]
Kind: TypeAlias = Literal["internal", "server", "client", "producer", "consumer"]


class Span(Protocol):
    """A piece of work within a trace."""

    @property
    def context(self) -> TraceContext | None:
        """Its position, for the next process; None while tracing is off."""

    @property
    def recording(self) -> bool:
        """Whether anything of it is kept. Ask before building attributes that cost time."""

    def child(
        self,
        name: str,
        *,
        kind: Kind = "internal",
        attributes: Attributes | None = None,
        started_at: float | None = None,
    ) -> Span:
        """Begin a span below this one, recorded as this one is; `started_at` in seconds since the epoch, else now."""

    def rename(self, name: str) -> None:
        """A better name, of low cardinality, now that it is known."""

    def set(self, attributes: Attributes) -> None:
        """Add attributes."""

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Something happened within the span, now."""

    def end(self, *, error: str = "", ended_at: float | None = None) -> None:
        """The work is done, with `error` (a code) or in order. Idempotent."""

    def enter(self) -> None:
        """Make it the span of the current task for the rest of the task's life, for code outside narthex too."""


class Tracer(Protocol):
    """Begins traces, and continues those of other processes."""

    @property
    def enabled(self) -> bool:
        """Whether spans lead anywhere."""

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
        """Begin the first span of this process in a trace.

        Args:
            name: of low cardinality.
            kind: as OpenTelemetry has it.
            trace_id: of a new trace, 32 hex digits; empty takes a random one.
            parent: the span before it, in another process.
            trusted: whether `parent` comes from a process of this installation, so that its decision to record holds.
                A client's decision does not: the sampler decides anew, independent of the ids that the client chose.
            wanted: record it even if the sampler says no, within a budget.
            links: other traces that it has to do with.
            age_s: it began that many seconds ago.
        """


class _NoSpan:
    """The span while tracing is off."""

    __slots__ = ()
    context: Final = None
    recording: Final = False

    def child(self, name: str, **_: object) -> Span:  # noqa: ARG002 - as in the port
        return self

    def rename(self, name: str) -> None:
        """Kept nowhere."""

    def set(self, attributes: Attributes) -> None:
        """Kept nowhere."""

    def event(self, name: str, attributes: Attributes | None = None) -> None:
        """Kept nowhere."""

    def end(self, *, error: str = "", ended_at: float | None = None) -> None:
        """Kept nowhere."""

    def enter(self) -> None:
        """Changes nothing."""


class _NoTracing:
    """The tracer while tracing is off."""

    __slots__ = ()
    enabled: Final = False

    def begin(self, name: str, **_: object) -> Span:  # noqa: ARG002 - as in the port
        return NO_SPAN


NO_SPAN: Final[Span] = _NoSpan()
NO_TRACING: Final[Tracer] = _NoTracing()

CURRENT: Final[ContextVar[Span]] = ContextVar("narthex_span", default=NO_SPAN)
"""The span of the work at hand; tasks inherit it."""


def current_span() -> Span:
    """The span of the work at hand; `NO_SPAN` outside any."""
    return CURRENT.get()


@contextmanager
def ending(span: Span) -> Iterator[Span]:
    """Run a block, and end `span` after it: with the code of the exception that leaves it, or its type."""
    try:
        yield span
    except Exception as fault:
        span.end(error=str(getattr(fault, "code", "")) or type(fault).__name__)
        raise
    finally:
        span.end()


@contextmanager
def within(span: Span) -> Iterator[None]:
    """Run a block, and the tasks that it begins, as work of `span`."""
    token = CURRENT.set(span)
    try:
        yield
    finally:
        CURRENT.reset(token)
