"""Gives a message to the agent at work in its thread, instead of a run of its own (`busy: steer`).

Not here: `run.steer`, which has no message (`requests`). Rules: the agent must read its steering texts, else the
message would wait for the run's end in vain; the log has the proof, CUSTOM `narthex.steering` with the message's id,
which the owner of the run publishes when it accepts the message. So a repeat of the message finds the run that accepted
it, on any node, and a message for a run of another node, which may end before the control message arrives, waits for
that proof. A message that the agent never takes gets a run of its own at the run's end (`unread`).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from narthex.app.runs.local_runs import LocalRuns
from narthex.app.runs.services import RunServices, identity_json, node_of
from narthex.app.runs.unread import derived_run_id
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.events import TERMINAL
from narthex.domain.identity import Identity
from narthex.domain.steered_texts import concerns
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
            return await execution.steer(text, identity, message_id)
        data = steering(identity, run.run_id, text, message_id)
        await self._services.broker.control(Control("run", data, node_of(run.owner)))
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
        """The run that accepted the message when it was sent before, or the one that answers it because the agent did
        not take it; None: neither. Raises DependencyError.
        """
        events = await self._events_after(identity.tenant, thread_id, said_at)
        run_id = next((str(event["runId"]) for event in events if concerns(event, message_id)), "")
        if not run_id:
            return None
        runs = self._services.runs
        answering = await runs.get(identity.tenant, derived_run_id(run_id, message_id))
        return answering or await runs.get(identity.tenant, run_id)

    async def _proof(self, run: Run, message_id: str, said_at: Position | None) -> tuple[bool, bool]:
        """Whether the run accepted the message, and whether it is over."""
        events = await self._events_after(run.tenant, run.thread_id, said_at)
        own = [event for event in events if event.get("runId") == run.run_id]
        return any(concerns(event, message_id) for event in own), any(e["type"] in TERMINAL for e in own)

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


def steering(identity: Identity, run_id: str, text: str, message_id: str = "") -> dict[str, object]:
    """The control message that brings a text to the owner of a run."""
    data: dict[str, object] = {
        "op": "steer",
        "run_id": run_id,
        "by": identity.subject,
        "identity": identity_json(identity),
        "text": text,
    }
    return data | ({"message_id": message_id} if message_id else {})
