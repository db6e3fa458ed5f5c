"""Folds a run's STATE_SNAPSHOT and STATE_DELTA events into the agent's state, which the thread keeps.

Not here: storing it (`ports/runs.py`). Rules: deltas before the last snapshot are dropped, those after it are applied
when the run is over; a delta that does not fit is left out, as AG-UI's client does; a state over the limit is not kept,
because it could not be given back in one event.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from narthex.domain.agent_input import MAX_BYTES
from narthex.domain.events import Event
from narthex.domain.json_patch import PatchedDocument, PatchFault

_UNSET: Final = object()
_TURN_EVERY: Final = 256  # operations; of a state as large as it may be they take a few milliseconds


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

    @property
    def changed(self) -> bool:
        """Whether the run has changed the state."""
        return self._snapshot is not _UNSET or bool(self._patches)

    async def after(self, before: Any, turn: Callable[[], Awaitable[object]]) -> str | None:
        """The state to store, as JSON text (`null`: it was too large), from the one before the run; None: none, also
        where there was none and a snapshot says that it is empty, as of an agent that begins anew. Awaits `turn` now
        and then, because a run may have many deltas.
        """
        if before is None and not self._patches and (self._snapshot is _UNSET or self._snapshot == {}):
            return None
        state = before if self._snapshot is _UNSET else self._snapshot
        document = PatchedDocument({} if state is None and self._patches else state, MAX_BYTES)
        applied = 0
        for patch in self._patches:
            with contextlib.suppress(PatchFault):
                document.apply(patch)
            if document.too_large:
                break
            applied += len(patch)
            if applied >= _TURN_EVERY:
                applied = 0
                await turn()
        text = msgspec.json.encode(document.value)
        return text.decode() if len(text) <= MAX_BYTES else "null"
