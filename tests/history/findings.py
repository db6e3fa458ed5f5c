"""The kinds of findings in a history, and the time bounds that it is checked against.

Rules: a finding names one broken guarantee in a sentence with the values that prove it, and has the indexes of the
records concerned; bounds are seconds of the observer's clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from tests.history.records import Fault, Record


class Kind(StrEnum):
    """The broken guarantee."""

    LOST = "lost"
    """An acknowledged publication or message is missing where it must be."""
    TWICE = "twice"
    """One publication, message or run exists twice or was delivered twice."""
    ORDER = "order"
    """Two publications or messages are in the wrong order."""
    GAP = "gap"
    """A subscriber received an offset without having received its predecessor."""
    DIFFERENT_DATA = "different_data"
    """One (epoch, offset) of a channel holds different data for different observers."""
    EPOCH_RETURNED = "epoch_returned"
    """An epoch that was replaced by a newer one is current again."""
    FALSE_RECOVERED = "false_recovered"
    """`recovered: true` was sent although publications are missing."""
    EPOCH_NOT_TOLD = "epoch_not_told"
    """A subscriber is still in an old epoch although publications are acknowledged in a newer one."""
    OUTSIDE = "outside"
    """A publication was delivered on a channel that the connection does not follow."""
    AFTER_REMOVAL = "after_removal"
    """A removed user still received data after the bound."""
    SILENCE = "silence"
    """An acknowledged publication reached a live subscriber too late."""
    NO_REPLY = "no_reply"
    """A command was not answered in time although its connection was up."""
    COMMAND_ORDER = "command_order"
    """Commands of one connection on one channel did not take effect in the order in which they were sent."""
    END_TWICE = "end_twice"
    """A run has two terminal events."""
    AFTER_END = "after_end"
    """A run's event follows its terminal event."""
    RUN_WITHOUT_END = "run_without_end"
    """A run started and never ended."""
    END_NOT_TOLD = "end_not_told"
    """A run ended in the store, but its terminal event never reached a follower."""
    END_OTHERWISE = "end_otherwise"
    """A run was read with another state or error than its terminal event has, or as failed without an error."""
    RUN_ORDER = "run_order"
    """`seq` of a run repeats or skips."""
    DIGEST = "digest"
    """Count or digest of a run do not match what was delivered."""
    AGENT_TWICE = "agent_twice"
    """An agent that must not run again was called a second time for one run."""
    CALLS_MIXED = "calls_mixed"
    """One log shows the output of two calls of a run's agent, and no restart between them."""
    RUN_GIVEN_UP = "run_given_up"
    """A run ended `owner_lost`, or was restarted, without any fault."""
    CANCEL_LATE = "cancel_late"
    """A cancelled run did not end within the bound."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Time bounds.

    Attributes:
        silence_s: from an acknowledgement (or from the subscription, if that is later) to the delivery.
        stale_s: how old an acknowledged publication may be that a `recovered: true` does not include yet,
        provided that it is delivered right after; 0 is strict.
        removal_s: from the acknowledgement of a removal to the last delivery.
        reply_s: from a command to its answer.
        run_end_s: how long before the end of the history a run must have started for its missing end to count.
        cancel_s: from the acknowledgement of a cancel to the terminal event.
        cause_s: a recorded fault must have been active at most this long before a run was given up; infinity:
        not judged,
            because the history does not name all faults.
    """

    silence_s: float = 10.0
    stale_s: float = 5.0
    removal_s: float = 5.0
    reply_s: float = 20.0
    run_end_s: float = 60.0
    cancel_s: float = 15.0
    cause_s: float = float("inf")


class Finding(msgspec.Struct, frozen=True):
    """One broken guarantee.

    Attributes:
        kind: the guarantee.
        text: the sentence for readers.
        at: when it became visible.
        records: indexes into the history.
    """

    kind: Kind
    text: str
    at: float
    records: tuple[int, ...] = ()


class Deadlines:
    """Deadlines that take active faults into account."""

    def __init__(self, history: Sequence[Record]) -> None:
        open_: dict[str, Fault] = {}
        self._windows: list[tuple[float, float, list[str]]] = []
        for record in history:
            if not isinstance(record, Fault):
                continue
            began = open_.pop(record.name, None)
            if began is not None:
                self._windows.append((began.at, record.at, began.excuses))
            if record.active:
                open_[record.name] = record
        self._windows += [(fault.at, float("inf"), fault.excuses) for fault in open_.values()]
        self._windows.sort(key=lambda window: window[0])

    def active(self, since: float, until: float) -> bool:
        """Whether any fault was active between these times."""
        return any(began <= until and ended >= since for began, ended, _ in self._windows)

    def after(self, at: float, bound_s: float, kind: Kind) -> float:
        """The deadline for an event due from `at` on: `bound_s` later, counted from the end of each fault in
        between.
        """
        due = at + bound_s
        for began, ended, excuses in self._windows:
            if kind in excuses and began <= due and ended >= at:
                due = max(due, ended + bound_s)
        return due


def report(findings: Iterable[Finding], limit: int = 20) -> str:
    """Findings as lines, the earliest first."""
    ordered = sorted(findings, key=lambda finding: finding.at)
    lines = [f"{finding.at:10.3f} {finding.kind}: {finding.text}" for finding in ordered[:limit]]
    if len(ordered) > limit:
        lines.append(f"… and {len(ordered) - limit} more")
    return "\n".join(lines)
