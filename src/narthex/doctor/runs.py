"""Follows one run of an agent on the wire to its end and verifies it, with a forced drop in the middle on request.

Not here: the socket (`live`), commands and replies (`conversation`). Rules: the thread is the gate's own and is
deleted at the end, however the run ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Any, Final

import msgspec

from narthex.client.assembler import RunAssembler
from narthex.doctor.conversation import NarthexSockets, StepFailed, Wire, thread_id_of
from narthex.doctor.dialing import elapsed_ms
from narthex.doctor.documents import member
from narthex.doctor.exchanging import UpgradeFailed
from narthex.protocol.client import ReceivedPublication

MAX_PUBLICATIONS: Final = 20_000  # an agent with more output than this is unsuitable for a probe
DELETE_TRIES: Final = 30
DELETE_PAUSE_S: Final = 0.1  # three seconds in all: a run's last writes take milliseconds


class RunSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The observations of one run.

    Attributes:
        complete: count and digest agree with the terminal event.
        reason: why not.
        outcome: of the terminal event.
        events: number of events.
        first_event_ms: from the command to the first event.
        total_ms: from the command to the terminal event.
        dropped: whether the socket was dropped on the way, and resumed.
    """

    complete: bool
    reason: str
    outcome: str
    events: int
    first_event_ms: float
    total_ms: float
    dropped: bool


async def follow_run(connections: NarthexSockets, text: str, *, drop: bool, timeout_s: float) -> RunSeen:
    """Start a run in a thread of its own and follow it.

    Args:
        connections: of the user whose run it is.
        text: message to the agent.
        drop: whether to drop the socket after the first event and resume on another one.
        timeout_s: for the whole run.

    Raises:
        StepFailed: a command failed, or the run did not end in time.
        UpgradeFailed: a socket did not open.
    """
    wire, _ = await connections.connect()
    thread_id = thread_id_of(await wire.rpc("thread.create", title="narthex gate"))
    follower = _Follower(connections, wire, thread_id, text, timeout_s)
    try:
        seen = await follower.follow(drop=drop)
    except BaseException:
        with contextlib.suppress(StepFailed, UpgradeFailed):
            await _delete(connections, thread_id, follower.run_id)
        raise
    await _delete(connections, thread_id, "")
    return seen


async def _delete(connections: NarthexSockets, thread_id: str, run_id: str) -> None:
    """Delete the thread. A run that just ended still holds it for a moment, so `thread_busy` is tried again."""
    wire, _ = await connections.connect()
    if run_id:
        with contextlib.suppress(StepFailed):
            await wire.rpc("run.cancel", run_id=run_id)
    for _ in range(DELETE_TRIES):
        try:
            await wire.rpc("thread.delete", thread_id=thread_id)
        except StepFailed as error:
            if "thread_busy" not in str(error):
                raise
            await asyncio.sleep(DELETE_PAUSE_S)
        else:
            return
    raise StepFailed("the gate's thread stays busy after its run has ended, and cannot be deleted")


class _Follower:
    def __init__(
        self, connections: NarthexSockets, wire: Wire, thread_id: str, text: str, timeout_s: float
    ) -> None:
        self.run_id = ""
        self._connections = connections
        self._wire = wire
        self._thread_id = thread_id
        self._text = text
        self._deadline = time.perf_counter() + timeout_s
        self._channel = f"thread:{thread_id}"
        self._began = time.perf_counter()
        self._first_ms = 0.0
        self._dropped = False

    async def follow(self, *, drop: bool) -> RunSeen:
        await self._wire.ask("subscribe", channel=self._channel)
        self._began = time.perf_counter()
        started = await self._wire.rpc(
            "run.start", thread_id=self._thread_id, text=self._text, client_message_id=uuid.uuid4().hex
        )
        self.run_id = str(started.get("run_id", ""))
        assembler = RunAssembler(self.run_id)
        for _ in range(MAX_PUBLICATIONS):
            if assembler.terminal is not None:
                return self._seen(assembler)
            publication = await self._wire.publication(self._channel, self._deadline)
            event = publication.data
            if isinstance(event, dict) and event.get("runId") == assembler.run_id:
                self._first_ms = self._first_ms or elapsed_ms(self._began)
                assembler.push(event)
                if drop and not self._dropped:
                    await self._drop(publication)
        raise StepFailed(f"more than {MAX_PUBLICATIONS} events")

    async def _drop(self, last: ReceivedPublication) -> None:
        self._dropped = True
        self._wire.socket.abort()
        here = self._wire.session.positions[self._channel]._replace(offset=last.offset)
        self._wire, _ = await self._connections.connect()
        answer = await self._wire.ask("subscribe", channel=self._channel, **here.recovery)
        if not answer.get("recovered"):
            raise StepFailed("the thread's position was not recovered after a drop")

    def _seen(self, assembler: RunAssembler) -> RunSeen:
        proof = assembler.verify()
        end: Any = assembler.terminal or {}
        outcome = "error" if end.get("type") == "RUN_ERROR" else end.get("outcome") or "success"
        return RunSeen(
            complete=proof.complete,
            reason=proof.reason,
            outcome=outcome if isinstance(outcome, str) else str(member(end, "outcome").get("type", "")),
            events=proof.count,
            first_event_ms=self._first_ms,
            total_ms=elapsed_ms(self._began),
            dropped=self._dropped,
        )
