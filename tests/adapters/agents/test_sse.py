"""Server-sent events, cut anywhere."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.adapters.agents.sse import MAX_EVENT_BYTES, EventReader, ServerEvent
from narthex.ports.agents import AgentError

STREAM = (
    "\ufeff: hello\r\n"
    "event: x\r\ndata: one\r\n\r\n"
    "data:two\ndata: lines\nid: 7\n\n"
    "data: ü 😀\r\r"
    "\n\n"
    "data\n\n"
    "Internal Server Error\n"
    '{"error": 1}\n'
    "timestamp: 12\nx-request: 7\ndata: good\n\n"
    "data: cut off"
).encode()
EVENTS = [
    ServerEvent("x", "one"),
    ServerEvent("message", "two\nlines"),
    ServerEvent("message", "ü 😀"),
    ServerEvent("stray", "Internal Server Error"),
    ServerEvent("stray", '{"error": 1}'),
    ServerEvent("message", "good"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    """Whatever the network does, including split CRLF and characters."""
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = EventReader()
    found: list[ServerEvent] = []
    for start, end in itertools.pairwise(edges):
        found += reader.feed(STREAM[start:end])
    assert found == EVENTS
    assert reader.end() == [ServerEvent("message", "cut off", cut=True)]


def test_unknown_fields_at_the_end_may_be_an_error() -> None:
    """No event follows them: their text is returned, bounded."""
    reader = EventReader()
    assert reader.feed(b"data: x\n\n" + b"error: no memory\n" * 20) == [ServerEvent("message", "x")]
    assert reader.end() == [ServerEvent("stray", "\n".join(["error: no memory"] * 8), cut=True)]


def test_the_end_of_the_stream_may_cut_a_character() -> None:
    """That is a cut, not a fault of the encoding."""
    reader = EventReader()
    assert reader.feed(b"data: \xc3") == []
    assert reader.end() == [ServerEvent("message", "\ufffd", cut=True)]


@pytest.mark.parametrize("line", [b"data: " + b"x" * MAX_EVENT_BYTES + b"x", b"data: x\n" * 2_000_000])
def test_an_event_without_end_is_refused(line: bytes) -> None:
    """Neither one long line nor many short ones fill the memory."""
    reader = EventReader()
    with pytest.raises(AgentError, match="1 MB"):
        for at in range(0, len(line), 60_000):
            reader.feed(line[at : at + 60_000])


def test_bytes_that_are_no_text_are_refused() -> None:
    """And named."""
    with pytest.raises(AgentError, match="UTF-8"):
        EventReader().feed(b"data: \xff\xfe\n\n")
