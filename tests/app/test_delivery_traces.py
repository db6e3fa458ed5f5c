"""`app.delivery_traces`: deliveries of recorded runs as events, and nothing for the others."""

from __future__ import annotations

import json

import pytest

from narthex.app.delivery_traces import MAX_EVENTS, MAX_RUNS, DeliveryTraces
from narthex.domain.channels import channel_key, thread_channel
from narthex.ports.broker import Publication
from narthex.ports.runs import Run
from narthex.ports.tracing import NO_SPAN
from tests.spans import Spans, told


def run(name: str = "r1", thread: str = "t1") -> Run:
    """A run."""
    return Run(
        run_id=name,
        thread_id=thread,
        tenant="acme",
        user_id="alice",
        agent="bot",
        state="queued",
        client_message_id=name,
        message_id=name,
        created_at=0.0,
    )


def event(kind: str, offset: int, name: str = "r1") -> Publication:
    """An event of a run, as the journal encodes it."""
    body = json.dumps({"type": kind, "threadId": "t1", "runId": name}, separators=(",", ":"))
    return Publication(offset=offset, data=body.encode())


CHANNEL = channel_key("acme", thread_channel("t1"))


class Executing:
    """A run that this node executes."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def delivered(self, offset: int, subscribers: int) -> None:
        """See `DeliveredRun`."""
        self.seen.append((offset, subscribers))


def test_a_run_elsewhere_has_one_span_below_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an event for each delivery, from the first to the terminal one; then nothing is watched any more."""
    spans, traces = Spans(monkeypatch, {}), DeliveryTraces()
    command = spans.tracer.begin("command")
    traces.started(run(), command)
    traces.started(run(), command)  # a repeat of the same message
    watch = traces.watchers[CHANNEL]
    watch(event("RUN_STARTED", 1, "another"), 2)
    for offset, kind in enumerate(("RUN_STARTED", "CUSTOM", "RUN_FINISHED"), 2):
        watch(event(kind, offset), 3)
    command.end()
    seen = spans.named("deliver")
    assert spans.parent_of(seen) == "command"
    assert [dict(one.attributes or {}) for one in seen.events] == [
        {"narthex.offset": offset, "narthex.subscribers": 3} for offset in (2, 3, 4)
    ]
    assert told(seen)["narthex.run.deliveries"] == 3
    assert not traces.watchers


def test_a_run_of_this_node_takes_its_deliveries_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no span beside its own, and its end ends the watching."""
    spans, traces, own = Spans(monkeypatch, {}), DeliveryTraces(), Executing()
    command = spans.tracer.begin("command")
    traces.started(run(), command)
    traces.executes(run(), own, command.child("run"))
    traces.watchers[CHANNEL](event("RUN_FINISHED", 7), 5)
    traces.ended(run())
    assert own.seen == [(7, 5)]
    assert not traces.watchers
    assert [span.name for span in spans.ended] == []


def test_without_a_recorded_span_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the hub looks at an empty dict."""
    spans, traces = Spans(monkeypatch, {"OTEL_TRACES_SAMPLER": "always_off"}), DeliveryTraces()
    for span in (NO_SPAN, spans.tracer.begin("x")):
        traces.started(run(), span)
        traces.executes(run(), Executing(), span)
        traces.ended(run())
    assert not traces.watchers


def test_runs_and_events_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest run that nobody hears of is forgotten, and its span ends."""
    spans, traces = Spans(monkeypatch, {}), DeliveryTraces()
    command = spans.tracer.begin("command")
    traces.started(run(), command)
    for offset in range(MAX_EVENTS * 2):
        traces.watchers[CHANNEL](event("CUSTOM", offset), 1)
    for number in range(MAX_RUNS):
        traces.started(run(f"other-{number}", f"thread-{number}"), command)
    assert len(traces.watchers) == MAX_RUNS
    seen = spans.named("deliver")
    assert len(seen.events) == MAX_EVENTS
    assert told(seen)["narthex.run.deliveries"] == MAX_EVENTS * 2
