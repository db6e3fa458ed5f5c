"""`narthex.domain.traces`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.traces import (
    MAX_STATE,
    TraceContext,
    carried_trace,
    decoded_trace,
    trace_context,
    trace_id_of,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize("text", [f"00-{TRACE}-00f067aa0ba902b7-01", f"cc-{TRACE}-00f067aa0ba902b7-01-later"])
def test_valid_ones_give_their_trace(text: str) -> None:
    """Version 00, and later versions by their first fields."""
    assert trace_id_of(text) == TRACE


@pytest.mark.parametrize(
    "text",
    [
        "",
        TRACE,
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-00f067aa0ba902b7-01-more",
        f"00-{TRACE}-00f067aa0ba902b7-01\n",
    ],
)
def test_invalid_ones_give_none(text: str) -> None:
    """The gateway then makes its own, so that clients cannot write into its logs."""
    assert trace_id_of(text) is None


SPAN = "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("flags", "sampled"), [("00", False), ("01", True), ("03", True), ("02", False), ("ff", True)]
)
def test_only_the_first_flag_is_the_decision(flags: str, sampled: bool) -> None:
    """The others mean something else, or nothing yet."""
    assert trace_context(f"00-{TRACE}-{SPAN}-{flags}") == TraceContext(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("vendor=value", "vendor=value"),
        ("a=1,b@c=2", "a=1,b@c=2"),
        ("a=1 ,\tb=2", "a=1 ,\tb=2"),
        (",".join(f"k{n}=v" for n in range(32)), ",".join(f"k{n}=v" for n in range(32))),
        (",".join(f"k{n}=v" for n in range(33)), ""),
        ("a=" + "x" * MAX_STATE, ""),
        ("no pair", ""),
        ("a=ü", ""),
        ("a=1\r\nset-cookie: b", ""),
        ("A=1", ""),
        ("", ""),
    ],
)
def test_a_tracestate_is_kept_or_dropped_as_a_whole(given_: str, kept: str) -> None:
    """What breaks the grammar or the bounds goes no further; the trace does."""
    found = trace_context(f"00-{TRACE}-{SPAN}-01", given_)
    assert found == TraceContext(TRACE, SPAN, True, kept)
    assert found is not None
    assert decoded_trace(found.encoded()) == found
    assert trace_context(found.headers()["traceparent"], found.headers().get("tracestate", "")) == found


@pytest.mark.parametrize("odd", [{}, {"traceparent": 5}, {"traceparent": None}, {"traceparent": "nonsense"}])
def test_a_client_s_mapping_may_hold_anything(odd: dict[str, object]) -> None:
    """It is JSON."""
    assert carried_trace(odd) is None
    assert carried_trace({"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": 5}) == TraceContext(
        TRACE, SPAN, True
    )


@given(st.text())
def test_anything_gives_hex_or_none(text: str) -> None:
    """No header can bring anything else into a trace id."""
    found = trace_id_of(text)
    assert found is None or (len(found) == 32 and set(found) <= set("0123456789abcdef"))
