"""Folds a run's STATE_SNAPSHOT and STATE_DELTA events into the agent's state, which the thread keeps.

Not here: storing it (`ports/runs.py`). Rules: deltas before the last snapshot are dropped, those after it are applied
when the run is over; a delta that does not fit is left out, as AG-UI's client does; a state over the limit is not kept,
because it could not be given back in one event.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import msgspec

from narthex.domain.agent_input import MAX_BYTES
from narthex.domain.events import Event
from narthex.domain.json_patch import PatchedDocument, PatchFault

_UNSET: Final = object()


class AgentState:
    """The fold of one run."""

    __slots__ = ("_patches", "_snapshot")

    def __init__(self) -> None:
        self._snapshot: Any = _UNSET
        self._patches: list[list[Any]] = []

    def feed(self, event: Event) -> None:
        """Take the next event of the run."""
        kind = event["type"]
        if kind == "STATE_SNAPSHOT":
            self._snapshot, self._patches = event.get("snapshot"), []
        elif kind == "STATE_DELTA":
            self._patches.append(event["delta"])
        elif kind == "CUSTOM" and event.get("name") == "narthex.restarted":
            self._snapshot, self._patches = _UNSET, []

    def value(self, before: Any) -> Any:
        """The state now, from the one before the run; None too where it was too large after one of the deltas."""
        state = before if self._snapshot is _UNSET else self._snapshot
        document = PatchedDocument({} if state is None and self._patches else state, MAX_BYTES)
        for patch in self._patches:
            with contextlib.suppress(PatchFault):
                document.apply(patch)
            if document.too_large:
                break
        return document.value

    def after(self, before: Any) -> str | None:
        """The state to store, as JSON text (`null`: it was too large), from the one before the run; None: none."""
        state = self.value(before)
        if state is None and self._snapshot is _UNSET and not self._patches:
            return None
        text = msgspec.json.encode(state)
        return text.decode() if len(text) <= MAX_BYTES else "null"
