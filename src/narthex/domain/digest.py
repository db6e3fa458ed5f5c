"""The digest of a run: it lets any client prove that it has the whole run, whether or not deltas were merged.

**Normal form.** Take all events of the run in the order of `seq`, the terminal one included.

1. Of each event leave out the top-level members `seq`, `seq_from`, `count`, `digest` and `timestamp`.
   Members of that name deeper inside stay.
2. Join deltas: two *adjacent* events whose `type` is TEXT_MESSAGE_CONTENT, REASONING_MESSAGE_CONTENT or
   TOOL_CALL_ARGS and which are equal in everything but `delta` become one, `delta` being both, one after the
   other. Equal means: the same by step 3. So `true` and `1` differ, and `1` and `1.0` do not, nor do two integers
   that are the same double. An empty delta joins like any other and stays an event of its own where it has no
   such neighbour.
   A delta that was merged on the way (`seq_from` … `seq`) is just a longer delta: the rule makes no difference.
3. Write each as RFC 8785 canonical JSON in UTF-8, join them with one newline (0x0A), none at the end.
4. The digest is the SHA-256 of that, in lower-case hex.

An integer beyond ±(2^53-1) counts as the double that a JavaScript client reads. `CUSTOM narthex.restarted` is
an event like any other: the digest covers what came before it too, although its text is void. `count` is the
last `seq`, the terminal event's own. Test vectors: tests/vectors/digest.json.
"""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterable
from typing import Any, Final

import rfc8785

from narthex.domain.events import DELTA_ID, Event

for _codec in ("utf-16-be", "utf-16-le"):
    # Loaded here and not by the first run: where no more files may be opened, importing it fails and the run with it.
    codecs.lookup(
        _codec
    )  # rfc8785 sorts members by the first, `merging` joins split characters by the second

LEFT_OUT: Final = frozenset({"seq", "seq_from", "count", "digest", "timestamp"})
_MAX_SAFE: Final = 2**53 - 1


def canonical(event: Event) -> bytes:
    """One event's line of the normal form (steps 1 and 3).

    Raises:
        ValueError: it cannot be written as RFC 8785 JSON (NaN, a lone surrogate, a key that is no string, a
            type that JSON does not have, nested too deeply, a number beyond all doubles).
    """
    kept = {name: value for name, value in event.items() if name not in LEFT_OUT}
    try:
        try:
            return rfc8785.dumps(kept)
        except rfc8785.IntegerDomainError:
            return rfc8785.dumps(_with_doubles(kept))
    except RecursionError as fault:
        raise ValueError("the event is nested too deeply") from fault
    except OverflowError as fault:
        raise ValueError("a number is outside the range of a double") from fault


def _with_doubles(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_doubles(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_doubles(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MAX_SAFE:
        return float(value)
    return value


def same_members(first: Event, second: Event) -> bool:
    """Whether two events, without the members that are left out of the comparison, are the same by step 3.

    Python's own `==` takes `True` for `1`, and keeps two integers apart that a JavaScript client reads as one double.

    Raises:
        ValueError: as `canonical` does.
    """
    if all(
        type(value) is str for value in first.values()
    ):  # nearly every delta: strings, which compare as such
        return first == second
    if first.keys() != second.keys():
        return False
    return canonical(first) == canonical(second)


class Digest:
    """Takes a run's events one after the other; `value` may be asked for at any time."""

    __slots__ = ("_base", "_hash", "_pieces", "_separator")

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._separator = b""
        # The delta that is being joined: the event without `delta` and left-out members, and its texts.
        self._base: Event | None = None
        self._pieces: list[str] = []

    def feed(self, event: Event) -> None:
        """Take the next event. Raises ValueError as `canonical` does; then nothing was taken."""
        if event.get("type") in DELTA_ID and isinstance(event.get("delta"), str):
            base = {name: value for name, value in event.items() if name not in LEFT_OUT and name != "delta"}
            if self._base is None or not same_members(base, self._base):
                canonical({**base, "delta": event["delta"]})
                self._flush()
                self._base = base
            self._pieces.append(event["delta"])
            return
        line = canonical(event)
        self._flush()
        self._add(line)

    def value(self, following: Event | None = None) -> str:
        """The digest, 64 lower-case hex digits; more may be fed afterwards.

        Args:
            following: an event that is counted in without being taken: the terminal one, which carries the
                digest of a run that it is part of.
        """
        trial = self._hash.copy()
        separator = self._separator
        for line in (self._open_line(), b"" if following is None else canonical(following)):
            if line:
                trial.update(separator + line)
                separator = b"\n"
        return trial.hexdigest()

    def _open_line(self) -> bytes:
        """The line of the delta that is still being joined; empty when there is none."""
        if self._base is None:
            return b""
        return canonical({**self._base, "delta": "".join(self._pieces)})

    def _flush(self) -> None:
        if self._base is not None:
            self._add(self._open_line())
            self._base = None
            self._pieces = []

    def _add(self, line: bytes) -> None:
        self._hash.update(self._separator + line)
        self._separator = b"\n"


def digest_of(events: Iterable[Event]) -> str:
    """The digest of a whole run's events."""
    digest = Digest()
    for event in events:
        digest.feed(event)
    return digest.value()
