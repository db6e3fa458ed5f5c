"""Readings of bounded buffers."""

from __future__ import annotations

from narthex.app.buffers import buffer_readings


def test_each_buffer_has_fill_limit_and_share() -> None:
    """As they are when they are read; a buffer without a place has nothing to fill."""
    entries = [1]
    buffers = [("queue", entries.__len__, 4), ("none", lambda: 0, 0)]
    entries.append(2)
    assert list(buffer_readings(buffers)) == [
        ("buffer_fill", ("queue",), 2),
        ("buffer_limit", ("queue",), 4),
        ("buffer_used_ratio", ("queue",), 0.5),
        ("buffer_fill", ("none",), 0),
        ("buffer_limit", ("none",), 0),
        ("buffer_used_ratio", ("none",), 0.0),
    ]
