"""Hands finished spans to an exporter in batches, on a thread of its own.

    end of a span → queue (bounded) → thread → exporter → collector

Not here: making spans (`otel.py`). Rules: ending a span never waits; a span that finds the queue full is dropped and
counted; the exporter, which waits for the network, runs on the thread only; `stop` is bounded, whatever the exporter
does. The SDK's own processor does the same and counts nothing that a scraper of ours could read.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, Context, attach, set_value
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from narthex.adapters.telemetry.logging import get_logger

# Defaults of the specification (SDK, batching processor); at about 2 KB a span the queue holds 4 MB.
QUEUE: Final = 2048
BATCH: Final = 512
DELAY_MS: Final = 5000

Count = Callable[[str, int], None]
"""Takes a result (`exported`, `dropped`, `failed`) and a number of spans, on any thread; must not raise or wait."""

log = get_logger("narthex.tracing")
# The exporter writes a line for each try. A collector that is away would fill the log: this module says it once.
logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)


class SpanQueue(SpanProcessor):
    """See the module.

    Args:
        exporter: sends a batch, and waits for it.
        count: counts the fate of spans.
        environ: `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` and `OTEL_BSP_SCHEDULE_DELAY`.

    Attributes:
        limit: the most spans that wait.
    """

    def __init__(self, exporter: SpanExporter, count: Count, environ: Mapping[str, str]) -> None:
        self._exporter = exporter
        self._count = count
        self.limit = _number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE)
        self._batch = min(self.limit, _number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH))
        self._delay_s = _number(environ, "OTEL_BSP_SCHEDULE_DELAY", DELAY_MS) / 1000
        self._queue: deque[ReadableSpan] = deque()
        self._fates: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="narthex-spans", daemon=True)

    @property
    def pending(self) -> int:
        """The spans that wait."""
        return len(self._queue)

    def start(self) -> None:
        """Begin to export."""
        self._thread.start()

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """See `SpanProcessor`."""

    def on_end(self, span: ReadableSpan) -> None:
        """See `SpanProcessor`; may be called on any thread."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            full = self._stopping or len(self._queue) >= self.limit
            if full:
                self._fates["dropped"] += 1
            else:
                self._queue.append(span)
        if len(self._queue) >= self._batch:
            self._wake.set()

    def stop(self, within_s: float) -> None:
        """Export what is queued for at most `within_s`; the rest is dropped. Blocks: call it on a thread."""
        with self._lock:
            self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(within_s)
        with self._lock:
            self._fates["dropped"] += len(self._queue)
            self._queue.clear()
        self._report()
        self._exporter.shutdown()  # ends the pause between two tries

    def _run(self) -> None:
        # The exporter's own requests must not be traced by an instrumentation of its HTTP library.
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        while not self._stopping:
            self._wake.wait(self._delay_s)
            self._wake.clear()
            self._export()
        self._export()

    def _export(self) -> None:
        while batch := self._taken():
            try:
                done = self._exporter.export(batch) is SpanExportResult.SUCCESS
            except Exception:  # whatever the exporter does, the next batch gets its try
                done = False
            with self._lock:
                self._fates["exported" if done else "failed"] += len(batch)
            if done == self._failing:
                self._failing = not done
                self._say(len(batch))
            self._report()
        self._report()

    def _say(self, lost: int) -> None:
        if self._failing:
            log.warning(
                "spans_not_exported",
                lost=lost,
                remedy="Check that the collector of OTEL_EXPORTER_OTLP_ENDPOINT runs and takes OTLP over HTTP. "
                "narthex_trace_spans_total counts what is lost.",
            )
        else:
            log.info("spans_exported_again")

    def _taken(self) -> list[ReadableSpan]:
        with self._lock:
            return [self._queue.popleft() for _ in range(min(self._batch, len(self._queue)))]

    def _report(self) -> None:
        with self._lock:
            fates, self._fates = self._fates, Counter()
        for result, number in fates.items():
            if number:
                self._count(result, number)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    """A positive number, as the specification has it: another value counts as not set."""
    try:
        return max(1, int(environ.get(name, "").strip() or default))
    except ValueError:
        return default
