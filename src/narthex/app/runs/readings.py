"""Accounts of runs at work elsewhere, for those who ask again and again: each question reads what is new only.

Not here: the fold itself (`replay`), runs at work on this node (their execution has the account). Rules: at most
`READINGS` are kept, the longest unasked goes first; one question at a time reads for a run, the others wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from narthex.app.runs.replay import Reading, Replay
from narthex.app.runs.services import RunServices
from narthex.ports.runs import Run

READINGS: Final = 32  # runs that are polled at once on one node; each holds its text


class Readings:
    """See the module."""

    def __init__(self, services: RunServices) -> None:
        self._services = services
        self._kept: OrderedDict[tuple[str, str], tuple[asyncio.Lock, Reading]] = OrderedDict()

    async def of(self, run: Run) -> Replay:
        """The run as its log tells it now. Raises DependencyError: the broker cannot be reached."""
        key = (run.tenant, run.run_id)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = (asyncio.Lock(), Reading(self._services, run))
            if len(self._kept) > READINGS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        lock, reading = kept
        async with lock:
            replay = await reading.go_on()
        if replay.terminal is not None:  # its row is about to say the same
            self._kept.pop(key, None)
        return replay
