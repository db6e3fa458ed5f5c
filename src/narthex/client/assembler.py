"""Puts one run's events in order and verifies that they are complete (docs/protocol.md, "Completeness").

Not here: the wire, and the display of events. `web/packages/client` has the same assembler in TypeScript; both pass
tests/vectors/digest.json. Rules: events may arrive in any order, twice, merged (`seq_from` … `seq`) or not; `events`
always holds the gapless beginning of the run; the assembler guesses nothing: a gap stays a gap until the missing
events arrive.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, cast

from narthex.client.events import AguiEvent, RunError, RunFinished
from narthex.domain.digest import digest_of
from narthex.domain.merging import joins

MAX_EARLY: Final = 10_000
"""The most events that may wait behind a gap; at more, the channel must be read again (`conflict`)."""

_TERMINAL: Final = ("RUN_FINISHED", "RUN_ERROR")
_RESTARTED: Final = "narthex.restarted"


class Pushed(NamedTuple):
    """The result of pushing an event.

    Attributes:
        kind: `new`: appended, `events` are those that became visible with it. `repeat`: was there already.
            `early`: waits for the events before it. `replaced`: a merged delta replaced smaller ones and reaches
            further; `events` holds only the new part, with its delta cut to the text that was not there yet.
            `conflict`: cannot be fitted in; read the history into a new assembler.
        events: see above; empty for `repeat`, `early` and `conflict`.
        reason: the reason of a conflict.
    """

    kind: Literal["new", "repeat", "early", "replaced", "conflict"]
    events: list[AguiEvent] = []  # noqa: RUF012 -- a NamedTuple's default, never appended to
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of the verification.

    Attributes:
        complete: count and digest both agree with the terminal event's.
        reason: the reason why it is incomplete, in words; empty when complete.
        count: the last `seq` that has arrived without a gap.
        digest: SHA-256 hex of the normal form, computed here; empty while events are missing.
        expected_count: the terminal event's `count`; None without one.
        expected_digest: the terminal event's `digest`; None without one.
    """

    complete: bool
    reason: str
    count: int
    digest: str
    expected_count: int | None
    expected_digest: str | None


@dataclass(order=True, slots=True)
class _Piece:
    first: int
    last: int
    event: dict[str, Any] = field(compare=False)


class RunAssembler:
    """One run's events, in order. Pass every event of the run to `push`, then call `verify()`."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.last = 0
        """The last `seq` of the gapless beginning."""
        self._pieces: list[_Piece] = []
        self._early: list[_Piece] = []
        self._terminal: dict[str, Any] | None = None

    @property
    def events(self) -> list[AguiEvent]:
        """The gapless beginning of the run, in order."""
        return [cast("AguiEvent", piece.event) for piece in self._pieces]

    @property
    def terminal(self) -> RunFinished | RunError | None:
        """The event that ended the run, once every event before it has arrived; else None."""
        return cast("RunFinished | RunError | None", self._terminal)

    @property
    def has_gap(self) -> bool:
        """Whether events after a gap are waiting."""
        return bool(self._early)

    def push(self, event: AguiEvent | Mapping[str, Any]) -> Pushed:
        """Add one event; one without this run's id or without a `seq` is a conflict, because it is not the run's."""
        raw = cast("dict[str, Any]", event)
        last, first = raw.get("seq"), raw.get("seq_from", raw.get("seq"))
        if raw.get("runId") != self.run_id or not _position(last) or not _position(first):
            return Pushed("conflict", reason="the event has no seq of this run")
        piece = _Piece(cast("int", first), cast("int", last), raw)
        if piece.last <= self.last:
            return Pushed("repeat")
        if piece.first > self.last + 1:
            return self._wait(piece)
        if piece.first <= self.last:
            found = self._substitute(piece)
            if found is None:
                return Pushed("conflict", reason=f"events {first} to {last} overlap earlier ones")
            return Pushed("replaced", [found, *self._catch_up()])
        self._append(piece)
        return Pushed("new", [cast("AguiEvent", raw), *self._catch_up()])

    def verify(self) -> Proof:
        """Compare count and digest with the terminal event's. Changes nothing; hashes all events again."""
        end = self._terminal
        if end is None:
            reason = f"event {self.last + 1} has not arrived" if self._early else "the run has not ended"
            return Proof(False, reason, self.last, "", None, None)
        count, expected = end.get("count"), end.get("digest")
        if not isinstance(count, int) or not isinstance(expected, str):
            return Proof(False, "the terminal event has no count and digest", self.last, "", None, None)
        try:
            digest = digest_of(piece.event for piece in self._pieces)
        except ValueError as fault:
            reason = f"an event has no canonical form: {fault}"
            return Proof(False, reason, self.last, "", count, expected)
        reason = ""
        if count != self.last:
            reason = f"{self.last} events arrived, the run has {count}"
        elif digest != expected:
            reason = "the digest differs: an event was altered"
        return Proof(not reason, reason, self.last, digest, count, expected)

    def text(self) -> str:
        """The assistant's text so far, as `run.get` gives it; a restart voids the text before it."""
        parts: list[str] = []
        people: set[str] = set()
        for piece in self._pieces:
            event = piece.event
            kind = event.get("type")
            if kind == "CUSTOM" and event.get("name") == _RESTARTED:
                parts.clear()
                people.clear()
            elif kind == "TEXT_MESSAGE_START" and event.get("role", "assistant") != "assistant":
                people.add(event["messageId"])
            elif kind == "TEXT_MESSAGE_CONTENT" and event.get("messageId") not in people:
                parts.append(event["delta"])
        return "".join(parts)

    def _append(self, piece: _Piece) -> None:
        self._pieces.append(piece)
        self.last = piece.last
        if piece.event.get("type") in _TERMINAL:
            self._terminal = piece.event

    def _wait(self, piece: _Piece) -> Pushed:
        # Only the same range is a repeat: events that a waiting merged delta covers may still be needed beside
        # another merged delta that begins within it.
        if any((there.first, there.last) == (piece.first, piece.last) for there in self._early):
            return Pushed("repeat")
        if len(self._early) >= MAX_EARLY:
            return Pushed("conflict", reason="too many events are buffered behind a gap")
        insort(self._early, piece)
        return Pushed("early")

    def _substitute(self, piece: _Piece) -> AguiEvent | None:
        """Replace the pieces within a merged delta by it, where it overlaps the stored events and reaches further.

        Returns:
            The new part of it; None where it does not fit.
        """
        index = next((i for i, there in enumerate(self._pieces) if there.first == piece.first), None)
        if index is None:
            return None
        covered = self._pieces[index:]
        if not all(joins(there.event, piece.event) for there in covered):
            return None
        seen = "".join(there.event["delta"] for there in covered)
        if not piece.event["delta"].startswith(seen):
            return None
        rest = {**piece.event, "delta": piece.event["delta"][len(seen) :], "seq_from": self.last + 1}
        if rest["seq_from"] == piece.last:
            del rest["seq_from"]
        del self._pieces[index:]
        self._append(piece)
        return cast("AguiEvent", rest)

    def _catch_up(self) -> list[AguiEvent]:
        """Append the events that waited for the event just appended."""
        found: list[AguiEvent] = []
        while self._early and self._early[0].first <= self.last + 1:
            piece = self._early.pop(0)
            if piece.last <= self.last:
                continue
            if piece.first == self.last + 1:
                self._append(piece)
                found.append(cast("AguiEvent", piece.event))
            elif (rest := self._substitute(piece)) is not None:
                found.append(rest)
        return found


def _position(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
