"""`adapters.telemetry.otel`: whose decision counts, what an unrecorded trace costs, what a span may say."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision

from narthex.adapters.telemetry.otel import MAX_TEXT, WANTED_BURST, SamplingRule, _after
from narthex.adapters.telemetry.redaction import REDACTOR
from narthex.domain.traces import TraceContext
from narthex.settings.tracing import RATIOS, SAMPLERS
from tests.spans import Spans, told
from tests.timing import within

RARELY = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.000001"}
ALWAYS_TAKEN = "f" * 16 + "0" * 16  # by every ratio above 0: the sampler looks at the last 16 digits
NEVER_TAKEN = "f" * 32
PARENT = "00f067aa0ba902b7"


@pytest.fixture
def secret() -> Iterator[str]:
    """A live secret, as the settings register them."""
    value = "live-Secret-93fA0c7Q"
    REDACTOR.register([value])
    yield value
    REDACTOR.forget()


def test_a_stranger_cannot_have_its_trace_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by the flag nor by an id that the sampler takes; the ids go on."""
    spans = Spans(monkeypatch, RARELY)
    for sampled in (True, False):
        parent = TraceContext(ALWAYS_TAKEN, PARENT, sampled, "vendor=1")
        found = [spans.tracer.begin("x", parent=parent) for _ in range(50)]
        assert not any(span.recording for span in found)
        context = found[0].context
        assert context is not None
        assert (context.trace_id, context.sampled, context.state) == (ALWAYS_TAKEN, False, "vendor=1")
        assert context.span_id != PARENT
    assert not spans.ended


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        *((name, "") for name in SAMPLERS if name not in RATIOS),
        *((name, argument) for name in RATIOS for argument in ("", "0", "0.01", "0.5", "1")),
        ("", ""),
    ],
)
def test_the_rule_decides_as_the_sdk_s_sampler(
    monkeypatch: pytest.MonkeyPatch, name: str, argument: str
) -> None:
    """For new traces and for those of a parent that is trusted."""
    environ = {"OTEL_TRACES_SAMPLER": name} if name else {}
    environ |= {"OTEL_TRACES_SAMPLER_ARG": argument} if argument else {}
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    sampler, rule = TracerProvider(shutdown_on_exit=False).sampler, SamplingRule.of(environ)
    for trace_id in (ALWAYS_TAKEN, NEVER_TAKEN, *(secrets.token_hex(16) for _ in range(50))):
        for parent in (None, TraceContext(trace_id, PARENT, True), TraceContext(trace_id, PARENT, False)):
            context = Context() if parent is None else _after(parent)
            decided = sampler.should_sample(context, int(trace_id, 16), "x").decision
            assert rule.records(trace_id, parent, trusted=True) is (decided is Decision.RECORD_AND_SAMPLE)


def test_a_stranger_cannot_hide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all is recorded, a client's flag does not change that, and its span is the parent of ours."""
    spans = Spans(monkeypatch, {})
    span = spans.tracer.begin("x", parent=TraceContext(NEVER_TAKEN, PARENT, False, "vendor=1"))
    assert span.recording
    span.end()
    [seen] = spans.ended
    assert seen.parent is not None
    assert f"{seen.parent.span_id:016x}" == PARENT
    assert f"{seen.context.trace_id:032x}" == NEVER_TAKEN
    assert seen.context.trace_state.to_header() == "vendor=1"


def test_a_node_of_this_installation_decides_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """As parent-based samplers have it, whatever the ratio here."""
    spans = Spans(monkeypatch, RARELY)
    for sampled in (True, False):
        parent = TraceContext(NEVER_TAKEN, PARENT, sampled)
        assert spans.tracer.begin("x", parent=parent, trusted=True).recording is sampled


def test_a_trace_of_its_own_keeps_the_chosen_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The id in a refusal is the trace's; without one it is random."""
    spans = Spans(monkeypatch, RARELY)
    assert spans.tracer.begin("x", trace_id=ALWAYS_TAKEN).recording
    assert not spans.tracer.begin("x", trace_id=NEVER_TAKEN).recording
    chosen = spans.tracer.begin("x", trace_id=ALWAYS_TAKEN).context
    assert chosen is not None
    assert chosen.trace_id == ALWAYS_TAKEN
    ids = {spans.tracer.begin("x").context for _ in range(20)}
    assert len({one.trace_id for one in ids if one is not None}) == 20


def test_what_is_wanted_is_recorded_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of refusals does not fill the collector, and `always_off` means off."""
    spans = Spans(monkeypatch, RARELY)
    recorded = sum(
        spans.tracer.begin("x", trace_id=secrets.token_hex(16), wanted=True).recording for _ in range(300)
    )
    assert WANTED_BURST <= recorded < WANTED_BURST + 20
    off = Spans(monkeypatch, {"OTEL_TRACES_SAMPLER": "always_off"})
    assert not off.tracer.begin("x", wanted=True).recording
    none = Spans(monkeypatch, RARELY | {"OTEL_TRACES_SAMPLER_ARG": "0"})
    assert not none.tracer.begin("x", wanted=True).recording


def test_children_of_an_unrecorded_span_are_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost nothing, and their position goes on."""
    spans = Spans(monkeypatch, RARELY)
    span = spans.tracer.begin("x", trace_id=NEVER_TAKEN)
    child = span.child("y", attributes={"a": 1})
    assert child is span
    child.set({"a": 1})
    child.event("e")
    child.rename("z")
    child.end(error="bad")
    assert not spans.ended


def test_a_span_says_what_happened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds, links, events, times, the error; after its end nothing changes and nothing warns."""
    spans = Spans(monkeypatch, {})
    other = TraceContext(NEVER_TAKEN, PARENT, False)
    root = spans.tracer.begin("root", kind="server", links=[other], age_s=3.0)
    child = root.child("child", kind="client", attributes={"n": 1, "list": ["a"]}, started_at=1001.0)
    child.event("seen", {"at": 2.5})
    child.end(error="agent_failed", ended_at=1002.0)
    child.end()
    child.set({"late": 1})
    child.event("late")
    child.rename("late")
    root.end()
    seen = spans.named("child")
    assert (seen.start_time, seen.end_time) == (1001 * 10**9, 1002 * 10**9)
    assert told(seen) == {"n": 1, "list": ("a",), "error.type": "agent_failed"}
    assert [event.name for event in seen.events] == ["seen"]
    assert not seen.status.is_ok
    assert spans.parent_of(seen) == "root"
    began, ended = spans.named("root").start_time, spans.named("root").end_time
    assert began is not None
    assert ended is not None
    assert 3 * 10**9 <= ended - began < within(60) * 10**9
    [link] = spans.named("root").links
    assert f"{link.context.trace_id:032x}" == NEVER_TAKEN


def test_texts_are_redacted_and_bounded(monkeypatch: pytest.MonkeyPatch, secret: str) -> None:
    """In names, values, lists, events and errors; an id may be random."""
    spans = Spans(monkeypatch, {})
    root = spans.tracer.begin("root")
    random = "aZ3" * 15
    span = root.child(f"execute_tool {secret}", attributes={"narthex.run_id": random, "text": random})
    span.set({"list": [secret], "long": "x y " * 500})
    span.event("e", {"text": f"Bearer {random}"})
    span.end(error=secret)
    [seen] = spans.ended
    assert secret not in seen.to_json()
    assert told(seen)["narthex.run_id"] == random
    assert random not in str(told(seen)["text"])
    assert random not in str(dict(seen.events[0].attributes or {}))
    assert len(told(seen)["long"]) <= MAX_TEXT + 1


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "narthex"),
        ({"K_SERVICE": "chat-service"}, "chat-service"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=theirs,team=chat"}, "theirs"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "team=chat"}, "narthex"),
    ],
)
def test_the_resource_names_the_service(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], name: str
) -> None:
    """OpenTelemetry's variables first, then the platform's name."""
    spans = Spans(monkeypatch, environ)
    spans.tracer.begin("x").end()
    resource = spans.ended[0].resource.attributes
    assert resource["service.name"] == name
    assert resource["service.version"]
    assert resource["service.instance.id"]
    assert resource.get("team") == ("chat" if "team=" in str(environ) else None)
