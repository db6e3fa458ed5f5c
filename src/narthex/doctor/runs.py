"""One run of an agent, followed on the wire to its end and proved whole; with a forced drop in the middle if asked.

Not here: the socket (`live`), commands and replies (`conversation`). Rules: the thread is the gate's own and is
deleted at the end, whatever happened.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from typing import Any, Final

import msgspec

from narthex.client.assembler import RunAssembler
from narthex.doctor.conversation import Failed, Wire, thread_id_of
from narthex.doctor.dialing import elapsed_ms
from narthex.doctor.documents import member, objects
from narthex.doctor.exchanging import Line
from narthex.doctor.live import LiveSocket, Refused, open_socket
from narthex.doctor.observations import Attempt

MAX_PUBLICATIONS: Final = 20_000  # an agent that says more than this is no probe's agent
DELETE_TRIES: Final = 30
DELETE_PAUSE_S: Final = 0.1  # three seconds in all: a run's last writes take milliseconds


class RunSeen(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did.

    Attributes:
        complete: count and digest agree with what the terminal event says.
        reason: why not.
        outcome: of the terminal event.
        events: how many there were.
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


class Session:
    """Sockets of one person; every one that was opened is closed by `end`."""

    def __init__(self, line: Line, address: str) -> None:
        self._line = line
        self._address = address
        self._open: list[LiveSocket] = []

    async def connect(self) -> Wire:
        """A connected socket.

        Raises:
            Refused: the upgrade was refused.
            Failed: `connect` was.
        """
        socket = await open_socket(self._line, self._address, Attempt(name="gate", presents="good"))
        self._open.append(socket)
        wire = Wire(socket, self._line.timeout_s)
        await wire.ask(connect={})
        return wire

    async def end(self) -> None:
        """Close them all."""
        for socket in self._open:
            await socket.leave()


async def follow_run(session: Session, text: str, *, drop: bool, timeout_s: float) -> RunSeen:
    """Start a run in a thread of its own and follow it.

    Args:
        session: whose.
        text: what is said.
        drop: whether to drop the socket after the first event and resume on another one.
        timeout_s: for the whole run.

    Raises:
        Failed: a command failed, or the run did not end in time.
        Refused: a socket did not open.
    """
    wire = await session.connect()
    thread_id = thread_id_of(await wire.rpc("thread.create", title="narthex gate"))
    follower = _Follower(session, wire, thread_id, text, timeout_s)
    try:
        seen = await follower.follow(drop=drop)
    except BaseException:
        with contextlib.suppress(Failed, Refused):
            await _delete(session, thread_id, follower.run_id)
        raise
    await _delete(session, thread_id, "")
    return seen


async def _delete(session: Session, thread_id: str, run_id: str) -> None:
    """Delete the thread. A run that just ended still holds it for a moment, so `thread_busy` is tried again."""
    wire = await session.connect()
    if run_id:
        with contextlib.suppress(Failed):
            await wire.rpc("run.cancel", run_id=run_id)
    for _ in range(DELETE_TRIES):
        try:
            await wire.rpc("thread.delete", thread_id=thread_id)
        except Failed as error:
            if "thread_busy" not in str(error):
                raise
            await asyncio.sleep(DELETE_PAUSE_S)
        else:
            return
    raise Failed("the gate's own thread stays busy after its run has ended, and cannot be deleted")


class _Follower:
    def __init__(self, session: Session, wire: Wire, thread_id: str, text: str, timeout_s: float) -> None:
        self.run_id = ""
        self._session = session
        self._wire = wire
        self._thread_id = thread_id
        self._text = text
        self._deadline = time.perf_counter() + timeout_s
        self._channel = f"thread:{thread_id}"
        self._offset = 0
        self._epoch = ""
        self._began = time.perf_counter()
        self._first_ms = 0.0
        self._dropped = False

    async def follow(self, *, drop: bool) -> RunSeen:
        await self._subscribe()
        self._began = time.perf_counter()
        started = await self._wire.rpc(
            "run.start", thread_id=self._thread_id, text=self._text, client_message_id=uuid.uuid4().hex
        )
        self.run_id = str(started.get("run_id", ""))
        assembler = RunAssembler(self.run_id)
        for _ in range(MAX_PUBLICATIONS):
            if assembler.terminal is not None:
                return self._seen(assembler)
            publication = await self._next()
            event = publication.get("data", {})
            if isinstance(event, dict) and event.get("runId") == assembler.run_id:
                self._first_ms = self._first_ms or elapsed_ms(self._began)
                assembler.push(event)
                if drop and not self._dropped:
                    await self._drop()
        raise Failed(f"more than {MAX_PUBLICATIONS} events")

    async def _next(self) -> dict[str, Any]:
        publication = await self._wire.publication(self._channel, self._deadline)
        offset = publication.get("offset")
        self._offset = offset if isinstance(offset, int) else self._offset
        return publication

    async def _drop(self) -> None:
        self._dropped = True
        self._wire.socket.abort()
        self._wire = await self._session.connect()
        await self._subscribe()

    async def _subscribe(self) -> None:
        position: dict[str, Any] = {"channel": self._channel}
        if self._dropped:
            position |= {"recover": True, "offset": self._offset, "epoch": self._epoch}
        answer = await self._wire.ask(subscribe=position)
        if self._dropped and not answer.get("recovered"):
            raise Failed("the thread's position was not recovered after a drop")
        self._epoch = str(answer.get("epoch", self._epoch))
        for publication in objects(answer.get("publications")) if self._dropped else []:
            self._wire.pushes.append({**publication, "channel": self._channel})

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
