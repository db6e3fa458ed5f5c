"""`narthex.domain.traces`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.traces import trace_id_of

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


@given(st.text())
def test_anything_gives_hex_or_none(text: str) -> None:
    """No header can bring anything else into a trace id."""
    found = trace_id_of(text)
    assert found is None or (len(found) == 32 and set(found) <= set("0123456789abcdef"))
