"""W3C Trace Context: a position in a trace, read from and written as `traceparent` and `tracestate`.

Not here: making fresh ids (that takes randomness; the app does), spans (`ports/tracing.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

# Version 00, and later ones as far as their first four fields agree (W3C Trace Context section 3.2.2 and 4).
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.{0,128})?")
_NO_TRACE: Final = "0" * 32
_NO_PARENT: Final = "0" * 16
_SAMPLED: Final = 1
# Section 3.3.1.5: a propagated list has at least 512 characters; 3.3.1.1: it has at most 32 members. A list that breaks
# the grammar is dropped as a whole, and the traceparent counts all the same (section 4.3).
MAX_STATE: Final = 512
_MEMBER: Final = r"[a-z0-9][a-z0-9_\-*/@]{0,255}=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
_TRACESTATE: Final = re.compile(rf"(?:{_MEMBER})?(?:[ \t]*,[ \t]*(?:{_MEMBER})?){{0,31}}")


class TraceContext(NamedTuple):
    """A position in a trace.

    Attributes:
        trace_id: 32 hex digits.
        span_id: 16 hex digits: the span whose children are to come.
        sampled: whether its spans are recorded.
        state: the `tracestate`; empty for none.
    """

    trace_id: str
    span_id: str
    sampled: bool
    state: str = ""

    @property
    def traceparent(self) -> str:
        """The header, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"

    def headers(self) -> dict[str, str]:
        """The headers of a request that continues the trace."""
        headers = {"traceparent": self.traceparent}
        return headers | {"tracestate": self.state} if self.state else headers

    def encoded(self) -> str:
        """One line for a store; `decoded_trace` reads it."""
        return f"{self.traceparent} {self.state}" if self.state else self.traceparent


def trace_context(traceparent: str, tracestate: str = "") -> TraceContext | None:
    """The position that a valid `traceparent` names, else None. An invalid or overlong `tracestate` is dropped."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, parent, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    if trace_id == _NO_TRACE or parent == _NO_PARENT:
        return None
    kept = tracestate if len(tracestate) <= MAX_STATE and _TRACESTATE.fullmatch(tracestate) else ""
    return TraceContext(trace_id, parent, bool(int(flags, 16) & _SAMPLED), kept.strip())


def carried_trace(carrier: Mapping[str, object]) -> TraceContext | None:
    """The position in a client's own mapping (headers of `connect`, AG-UI's `forwardedProps`); None without a valid
    one.
    """
    traceparent, state = carrier.get("traceparent"), carrier.get("tracestate", "")
    if not isinstance(traceparent, str):
        return None
    return trace_context(traceparent, state if isinstance(state, str) else "")


def decoded_trace(line: str) -> TraceContext | None:
    """What `TraceContext.encoded` wrote; None for anything else."""
    traceparent, _, state = line.partition(" ")
    return trace_context(traceparent, state)


def trace_id_of(traceparent: str) -> str | None:
    """The 32 hex digits of a valid `traceparent`, else None."""
    found = trace_context(traceparent)
    return None if found is None else found.trace_id
