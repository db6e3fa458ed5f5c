"""Joining adjacent deltas: at the source before they get a `seq`, and further on for one slow client.

Not here: how long to wait (app) and which client is slow (hub). Rules: only deltas of one message, reasoning
or tool call, with all other members equal, and with nothing between them; lifecycle and tool events never.
The joined text is byte-identical to the parts, and the digest is the same either way (`digest`, step 2).
"""

from __future__ import annotations

from typing import Final

from narthex.domain.digest import same_members
from narthex.domain.events import DELTA_ID, Event

MAX_JOINED_CHARS: Final = 16_384
"""Longest joined `delta`: at most 64 KB of UTF-8, so that a merged delta never is what fills a client's bound."""

_POSITION: Final = frozenset({"seq", "seq_from", "timestamp", "delta"})


def joins(first: Event, second: Event) -> bool:
    """Whether two events are deltas of the same thing and differ in nothing but `delta` and position."""
    kind = first.get("type")
    if kind not in DELTA_ID or second.get("type") != kind:
        return False
    name = DELTA_ID[kind]
    if first.get(name) != second.get(name) or first.get("runId") != second.get("runId"):
        return False
    if not isinstance(first.get("delta"), str) or not isinstance(second.get("delta"), str):
        return False
    if len(first) == len(second) == 3:  # type, id and delta: nearly every delta before it is published
        return True
    try:
        return same_members(
            {key: value for key, value in first.items() if key not in _POSITION},
            {key: value for key, value in second.items() if key not in _POSITION},
        )
    except ValueError:  # no canonical form: never joined, so that the digest says which event it was
        return False


def merge(first: Event, second: Event) -> Event | None:
    """Merge two published deltas of a run, `second` following `first`, for a client that lags.

    Args:
        first: with `seq`, perhaps merged already (`seq_from`).
        second: the same; its first `seq` must follow the last of `first`.

    Returns:
        A new event with `seq_from` (the first merged seq) and `seq` (the last), or None when the two must
        stay apart. The caller sends it with the *second* publication's offset, and only where the two
        publications are neighbours in the channel (offset + 1).
    """
    last = first.get("seq")
    following = second.get("seq_from", second.get("seq"))
    if not isinstance(last, int) or not isinstance(following, int) or following != last + 1:
        return None
    if not joins(first, second) or len(first["delta"]) + len(second["delta"]) > MAX_JOINED_CHARS:
        return None
    merged = dict(first)
    merged["delta"] = first["delta"] + second["delta"]
    merged["seq_from"] = first.get("seq_from", last)
    merged["seq"] = second["seq"]
    if "timestamp" in second:
        merged["timestamp"] = second["timestamp"]
    else:
        merged.pop("timestamp", None)
    return merged


def split_text(text: str, size: int = MAX_JOINED_CHARS) -> list[str]:
    """Cut a text into pieces of at most `size` characters, for deltas that are too long for one event."""
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]


def well_formed(text: str, held: str = "") -> tuple[str, str]:
    """Make a delta's text valid Unicode, whatever its source cut apart.

    A source that streams UTF-16 units (JSON escapes of some model servers) may end a delta within a
    surrogate pair. The half is held back and put before the next delta; a half that never gets its other
    half becomes U+FFFD.

    Args:
        text: the delta as it came.
        held: the delta that the previous call held back.

    Returns:
        The text to publish and what to hold back for the next call (empty or one high surrogate).
    """
    if not held:
        try:
            text.encode()
        except UnicodeEncodeError:
            pass
        else:
            return text, ""
    joined = held + text
    rest = ""
    if joined and "\ud800" <= joined[-1] <= "\udbff":
        joined, rest = joined[:-1], joined[-1]
    whole = joined.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole, rest
