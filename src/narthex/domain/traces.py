"""The trace id of a request: W3C Trace Context's, when the request brings a valid one.

Not here: making a fresh one (that takes randomness; the app does).
"""

from __future__ import annotations

import re
from typing import Final

# Version 00, and later ones as far as their first four fields agree (W3C Trace Context section 3.2.2 and 4).
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.{0,128})?")
_NO_TRACE: Final = "0" * 32
_NO_PARENT: Final = "0" * 16


def trace_id_of(traceparent: str) -> str | None:
    """The 32 hex digits of a valid `traceparent`, else None."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, parent, rest = match.groups()
    if version == "ff" or (version == "00" and rest is not None):
        return None
    return None if trace_id == _NO_TRACE or parent == _NO_PARENT else trace_id
