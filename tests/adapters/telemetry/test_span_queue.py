"""`adapters.telemetry.span_queue`: bounded, counted, never in the way, and stopped in time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence

import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from narthex.adapters.telemetry.span_queue import SpanQueue
from tests.timing import within


class Exporter(SpanExporter):
    """Takes, refuses, raises, or waits."""

    def __init__(self, mood: str = "takes") -> None:
        self.mood = mood
        self.batches: list[int] = []
        self.entered = threading.Event()
        self.released = threading.Event()
        self.shut = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches.append(len(spans))
        self.entered.set()
        if self.mood == "waits":
            self.released.wait(within(60))
        if self.mood == "raises":
            raise OSError("no route")
        return SpanExportResult.FAILURE if self.mood == "refuses" else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        self.shut = True
        self.released.set()


def span(*, sampled: bool = True) -> ReadableSpan:
    """A finished span."""
    flags = api.TraceFlags(1 if sampled else 0)
    return ReadableSpan("x", api.SpanContext(1, 2, is_remote=False, trace_flags=flags))


def queue(exporter: Exporter, fates: Counter[str], **environ: str) -> SpanQueue:
    """A queue that counts into `fates`."""

    def count(result: str, number: int) -> None:
        fates[result] += number

    return SpanQueue(exporter, count, {f"OTEL_BSP_{name}": value for name, value in environ.items()})


def test_batches_are_exported_and_counted() -> None:
    """A full batch at once, the rest at the stop; an unsampled span not at all."""
    exporter, fates = Exporter(), Counter[str]()
    made = queue(exporter, fates, MAX_EXPORT_BATCH_SIZE="4", SCHEDULE_DELAY="60000")
    made.start()
    for _ in range(4):
        made.on_end(span())
    assert exporter.entered.wait(within(10))
    made.on_end(span(sampled=False))
    made.on_end(span())
    made.stop(within(10))
    assert exporter.batches == [4, 1]
    assert fates == {"exported": 5}
    assert exporter.shut


@pytest.mark.parametrize("mood", ["refuses", "raises"])
def test_a_batch_that_is_not_taken_is_counted_and_the_next_is_tried(mood: str) -> None:
    """Whatever the exporter does, its thread goes on."""
    exporter, fates = Exporter(mood), Counter[str]()
    made = queue(exporter, fates, MAX_EXPORT_BATCH_SIZE="2")
    made.start()
    for _ in range(6):
        made.on_end(span())
    made.stop(within(10))
    assert sum(exporter.batches) == 6
    assert fates == {"failed": 6}


def test_an_exporter_that_hangs_costs_neither_the_caller_nor_the_stop() -> None:
    """The queue fills up to its bound, what is beyond is dropped, and the stop takes its bound."""
    exporter, fates = Exporter("waits"), Counter[str]()
    made = queue(exporter, fates, MAX_QUEUE_SIZE="10", MAX_EXPORT_BATCH_SIZE="5")
    made.start()
    for _ in range(5):
        made.on_end(span())
    assert exporter.entered.wait(within(10))
    spans = [span() for _ in range(1000)]
    began = time.monotonic()
    for one in spans:
        made.on_end(one)
    assert time.monotonic() - began < within(1)
    made.stop(0.2)
    assert time.monotonic() - began < within(3)
    assert fates["dropped"] == 1000  # 990 found it full, 10 were left at the stop
    assert exporter.shut


def test_numbers_that_are_none_count_as_not_set() -> None:
    """As the specification has it for the SDK's own variables."""
    made = queue(Exporter(), Counter(), MAX_QUEUE_SIZE="many", MAX_EXPORT_BATCH_SIZE="", SCHEDULE_DELAY="-5")
    assert (made.limit, made._batch, made._delay_s) == (2048, 512, 0.001)
