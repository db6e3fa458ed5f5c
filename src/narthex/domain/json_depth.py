"""Measures how deep JSON nests, without parsing it. A parser fails where the stack ends, which its caller decides."""

from __future__ import annotations

from typing import Final

MAX_EVENT_DEPTH: Final = 128
"""Levels of an event, of what a client sends to an agent, and of what a service publishes: any reader can parse it."""

_AS_BRACES: Final = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def json_depth_exceeds(raw: bytes, limit: int) -> bool:
    """Whether brackets outside strings nest deeper than `limit`. Linear; needs no valid JSON."""
    if raw.count(b"{") + raw.count(b"[") <= limit:
        return False  # the usual case costs two C scans
    # As much as possible in C: 64 KB byte by byte held the loop for 5 ms, sixty times a second and connection.
    if (
        b"\\" in raw
    ):  # escapes are pairs, read from the left: what is left of a run of backslashes escapes a quote
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    brackets = b"".join(raw.split(b'"')[::2]).translate(_AS_BRACES, _NO_BRACKETS)
    below = 0  # levels removed so far, innermost first
    while below < limit:
        outer = brackets.replace(b"{}", b"")
        if (
            len(outer) * 8 > len(brackets) * 7
        ):  # little to be won: a few deep towers instead of many flat things
            break
        brackets, below = outer, below + 1
    depth = below
    for byte in brackets:
        depth += 1 if byte == 0x7B else -1
        if depth > limit:
            return True
    return False
