"""A tracer whose spans stay in memory, for tests in one process. Not here: the collector on the wire (`otlp.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from narthex.adapters.telemetry.otel import OtelTracer
from narthex.ports.tracing import CURRENT, NO_SPAN
from tests.app.runs.fakes import FakeMeter


class Spans:
    """A tracer, and what it has recorded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str]) -> None:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        self._exporter = InMemorySpanExporter()
        self.tracer = OtelTracer(FakeMeter(), exporter=self._exporter, environ=environ, share=False)
        assert CURRENT.get() is NO_SPAN

    @property
    def ended(self) -> list[ReadableSpan]:
        """The spans that have ended, in that order."""
        self.tracer._queue._export()
        return list(self._exporter.get_finished_spans())

    def taken(self) -> list[ReadableSpan]:
        """The spans that have ended since the last call."""
        found = self.ended
        self._exporter.clear()
        return found

    def named(self, name: str) -> ReadableSpan:
        """The only span of a name."""
        [found] = [span for span in self.ended if span.name == name]
        return found

    def parent_of(self, span: ReadableSpan) -> str:
        """The name of a span's parent; empty: it has none here."""
        return next(
            (
                other.name
                for other in self.ended
                if span.parent is not None and other.context.span_id == span.parent.span_id
            ),
            "",
        )


def told(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes."""
    return dict(span.attributes or {})
