"""Caches the log states of runs on other nodes for clients that poll: each request reads only new events.

Not here: the fold itself (`run_log_state`), runs on this node (their execution has the state). Rules: at most
`MAX_CACHED` are kept, the longest unused goes first; one request at a time reads for a run, the others wait.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from narthex.app.runs.run_log_state import RunLogReader, RunLogState
from narthex.app.runs.services import RunServices
from narthex.ports.runs import Run

MAX_CACHED: Final = 32  # runs that are polled at once on one node; each holds its text


class RunLogCache:
    """See the module."""

    def __init__(self, services: RunServices) -> None:
        self._services = services
        self._kept: OrderedDict[tuple[str, str], tuple[asyncio.Lock, RunLogReader]] = OrderedDict()

    async def of(self, run: Run) -> RunLogState:
        """The state of the run in its log. Raises DependencyError: the broker cannot be reached."""
        key = (run.tenant, run.run_id)
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = (asyncio.Lock(), RunLogReader(self._services, run))
            if len(self._kept) > MAX_CACHED:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        lock, reader = kept
        async with lock:
            log_state = await reader.catch_up()
        if log_state.terminal is not None:  # its row is about to contain the same
            self._kept.pop(key, None)
        return log_state
