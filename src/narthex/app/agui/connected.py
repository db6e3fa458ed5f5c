"""A thread as a client finds it when it connects. Not here: reading it (`requests`), its later runs.

Rule: the stored messages come as a run of their own, the preamble, with the client's `runId`: RUN_STARTED,
MESSAGES_SNAPSHOT, STATE_SNAPSHOT and RUN_FINISHED, whose outcome has the open interrupts.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec

from narthex.domain import events as ev
from narthex.domain.events import RUN_STARTED, Event
from narthex.ports.broker import Position


class Connected(msgspec.Struct, frozen=True, kw_only=True):
    """See the module.

    Attributes:
        real_id: the gateway's; empty: the user has no thread of this name yet.
        thread_id: the client's name of the thread.
        run_id: the client's name of the preamble.
        messages: in AG-UI's form.
        state: of the agent; None: there is none.
        interrupts: open ones.
        result: of the last run, if it finished and none goes on; None: there is none.
        at: every event that is not in `messages` comes after it.
        whole_runs: runs whose messages are in `messages`.
        preamble: whether the client needs it; a client that goes on after a cut has it.
        follow: whether the stream goes on when no run is left.
    """

    real_id: str
    thread_id: str
    run_id: str
    messages: list[dict[str, Any]]
    state: Any
    interrupts: list[Event]
    at: Position
    whole_runs: Collection[str]
    preamble: bool = True
    follow: bool = False
    result: Any = None

    def opening(self) -> list[Event]:
        """The events of the preamble."""
        names = {"threadId": self.thread_id, "runId": self.run_id}
        found: list[Event] = [{"type": RUN_STARTED, **names, "metadata": {"narthex": {"connect": True}}}]
        found.append({"type": "MESSAGES_SNAPSHOT", "messages": self.messages})
        if self.state is not None:
            found.append(ev.state_snapshot(self.state))
        outcome = ev.interrupted(self.interrupts) if self.interrupts else ev.success()
        found.append(ev.run_finished(self.thread_id, self.run_id, outcome, result=self.result))
        return found
