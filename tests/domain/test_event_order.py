"""The table of legal orders: what an agent may yield next, and how a fault is named."""

from __future__ import annotations

import pytest

from narthex.domain import events as ev
from narthex.domain.event_order import CLOSING, TABLE, EventOrder
from narthex.domain.events import Event

STARTED = ev.run_started("t", "r")
FINISHED = ev.run_finished("t", "r", ev.success())


def fault(*events: Event) -> str | None:
    """The first fault of a started run that gets these events."""
    order = EventOrder()
    for event in (STARTED, *events):
        found = order.check(event)
        if found:
            return found
    return None


def test_a_whole_run_is_legal() -> None:
    """Reasoning, a tool call within a step, text and the end, in the usual order."""
    assert (
        fault(
            ev.reasoning_start("s"),
            ev.reasoning_message_start("q"),
            ev.reasoning_content("q", "hm"),
            ev.reasoning_message_end("q"),
            ev.reasoning_end("s"),
            ev.step_started("look"),
            ev.tool_call_start("c", "health"),
            ev.tool_call_args("c", "{}"),
            ev.tool_call_end("c"),
            ev.tool_call_result("c-r", "c", "fine"),
            ev.step_finished("look"),
            ev.text_start("m"),
            ev.text_content("m", "Fine."),
            ev.text_end("m"),
            FINISHED,
        )
        is None
    )


@pytest.mark.parametrize(
    ("events", "words"),
    [
        ([ev.text_content("m", "x")], "TEXT_MESSAGE_CONTENT came for text message 'm', which is absent"),
        ([ev.text_end("m")], "it must be open"),
        ([ev.text_start("m"), ev.text_start("m")], "which is open; it must be absent"),
        ([ev.tool_call_args("c", "{}")], "tool call 'c', which is absent"),
        ([ev.tool_call_start("c", "f"), ev.tool_call_result("m", "c", "")], "which is open"),
        ([ev.tool_call_start("c", "f"), ev.tool_call_end("c"), ev.tool_call_args("c", "")], "which is ended"),
        ([ev.tool_call_start("c", "f"), ev.tool_call_end("c"), ev.tool_call_start("c", "f")], "is ended"),
        ([ev.step_finished("s")], "step 's', which is absent"),
        ([ev.reasoning_content("q", "x")], "reasoning message 'q', which is absent"),
        ([ev.text_start("m"), FINISHED], "RUN_FINISHED came while text message 'm' was open"),
        ([FINISHED, ev.custom("x", 1)], "CUSTOM came while the run was over"),
        ([FINISHED, FINISHED], "RUN_FINISHED came while the run was over"),
        ([FINISHED, ev.text_start("m")], "TEXT_MESSAGE_START came while the run was over"),
        ([STARTED], "RUN_STARTED came while the run was running"),
    ],
)
def test_an_illegal_order_is_named(events: list[Event], words: str) -> None:
    """The fault names the event, the id and the state it was in."""
    assert words in (fault(*events) or "")


def test_an_agent_may_not_send_what_is_the_gateways() -> None:
    """RUN_* from an agent is refused although the same event from the gateway is legal."""
    order = EventOrder()
    order.check(STARTED)
    assert "sent by the gateway" in (order.check(FINISHED, from_agent=True) or "")
    assert order.check(FINISHED) is None


def test_a_refused_event_changes_nothing() -> None:
    """After a fault the legal continuation still is legal."""
    order = EventOrder()
    for event in (STARTED, ev.text_start("m")):
        assert order.check(event) is None
    assert order.check(ev.text_start("m"))
    assert order.check(ev.text_content("m", "x")) is None
    assert order.check(ev.text_end("m")) is None


def test_an_error_may_come_before_the_run_started() -> None:
    """AG-UI allows RUN_ERROR as the first event."""
    assert EventOrder().check(ev.run_error("no", "internal")) is None


def test_closing_events_make_the_end_legal() -> None:
    """Open parts are closed newest first, after which RUN_FINISHED is legal."""
    order = EventOrder()
    for event in (STARTED, ev.step_started("s"), ev.text_start("m"), ev.tool_call_start("c", "f")):
        assert order.check(event) is None
    closing = order.closing_events()
    assert [event["type"] for event in closing] == ["TOOL_CALL_END", "TEXT_MESSAGE_END", "STEP_FINISHED"]
    assert all(order.check(event) is None for event in closing)
    assert order.check(FINISHED) is None


def test_every_kind_that_opens_can_be_closed() -> None:
    """Each kind of the table has a closing event, which is itself in the table for that kind."""
    assert {rule.kind for rule in TABLE.values()} == set(CLOSING)
    assert all(TABLE[closing].kind == kind for kind, closing in CLOSING.items())


def test_ids_may_be_used_again_after_a_restart() -> None:
    """`forget` drops the void attempt's tool calls."""
    order = EventOrder()
    for event in (STARTED, ev.tool_call_start("c", "f"), ev.tool_call_end("c")):
        assert order.check(event) is None
    order.forget()
    assert order.check(ev.tool_call_start("c", "f")) is None
