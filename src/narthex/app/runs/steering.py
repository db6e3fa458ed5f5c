"""Gives a message to the agent at work in its thread, instead of a run of its own (`busy: steer`).

Not here: `run.steer`, which has no message (`requests`). Rules: the agent must read its steering texts, else the
message would never be answered; the log has the proof, CUSTOM `narthex.steered` with the message's id, which the owner
of the run publishes before its agent gets the text. So a repeat of the message finds the run that took it, on any node,
and a message for a run of another node, which may end before the control message arrives, waits for that proof.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from narthex.app.runs.local_runs import LocalRuns
from narthex.app.runs.services import RunServices
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.events import TERMINAL
from narthex.domain.identity import Identity
from narthex.ports.broker import Control, Position
from narthex.ports.runs import Run

PROOF_S: Final = 2.0
"""Wait for another node's proof: a healthy one takes milliseconds. A message that was taken later all the same gets a
run of its own beside, so that it is answered in any case."""
PROOF_STEP_S: Final = 0.05


class MessageSteering:
    """See the module. The engine makes one object."""

    def __init__(self, services: RunServices, local_runs: LocalRuns) -> None:
        self._services = services
        self._local_runs = local_runs

    async def take(
        self, identity: Identity, run: Run, message_id: str, text: str, said_at: Position | None
    ) -> bool:
        """Give a message, which stands in the log up to `said_at`, to the agent of a running run. Returns whether the
        agent takes it. Raises DependencyError.
        """
        execution = self._local_runs.executions.get(run.run_id)
        if execution is not None:
            return await execution.steer(text, identity.subject, message_id)
        data: dict[str, object] = {
            "op": "steer",
            "run_id": run.run_id,
            "by": identity.subject,
            "text": text,
            "message_id": message_id,
        }
        await self._services.broker.control(Control("run", data, run.owner.rpartition("/")[0]))
        loop = asyncio.get_running_loop()
        until = loop.time() + PROOF_S
        while loop.time() < until:
            taken, over = await self._proof(run, message_id, said_at)
            if taken or over:
                return bool(taken)
            await asyncio.sleep(PROOF_STEP_S)
        return False

    async def run_of(
        self, identity: Identity, thread_id: str, message_id: str, said_at: Position | None
    ) -> Run | None:
        """The run whose agent took the message when it was sent before, or None. Raises DependencyError."""
        run_id = await self._taken(identity.tenant, thread_id, message_id, said_at)
        return await self._services.runs.get(identity.tenant, run_id) if run_id else None

    async def _taken(self, tenant: str, thread_id: str, message_id: str, said_at: Position | None) -> str:
        """The id of the run whose log says that it took the message; empty: none does."""
        events = await self._events_after(tenant, thread_id, said_at)
        return next((str(event["runId"]) for event in events if _takes(event, message_id)), "")

    async def _proof(self, run: Run, message_id: str, said_at: Position | None) -> tuple[bool, bool]:
        """Whether the run took the message, and whether it is over."""
        events = await self._events_after(run.tenant, run.thread_id, said_at)
        own = [event for event in events if event.get("runId") == run.run_id]
        return any(_takes(event, message_id) for event in own), any(e["type"] in TERMINAL for e in own)

    async def _events_after(self, tenant: str, thread_id: str, at: Position | None) -> list[dict[str, Any]]:
        """The events of runs after a position; none where the log does not reach back to it."""
        key = channel_key(tenant, thread_channel(thread_id))
        page = await self._services.broker.history(key, since=at)
        found: list[dict[str, Any]] = []
        while page.publications:
            for publication in page.publications:
                event = msgspec.json.decode(publication.data)
                if isinstance(event, dict) and "runId" in event:
                    found.append(event)
            last = page.publications[-1].offset
            if last >= page.top.offset:
                break
            page = await self._services.broker.history(key, since=Position(last, page.top.epoch))
        return found


def _takes(event: dict[str, Any], message_id: str) -> bool:
    if event.get("name") != "narthex.steered":
        return False
    value = event.get("value")
    return isinstance(value, dict) and value.get("messageId") == message_id
