"""Sends a user's message and starts the run that answers it: the one path behind RPC `run.start` and AG-UI over HTTP.

Not here: the form of the request, the run itself (app/runs). Rule: the steps come in an order that makes a repeat
after any crash give the same run and no second message: known already? → thread → message → run row.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final
from weakref import WeakValueDictionary

from narthex.app.chat import TEXT_BYTES, Chat, derived_id
from narthex.app.quotas import Quotas
from narthex.app.runs.engine import RunEngine
from narthex.app.runs.requests import STEER_BYTES
from narthex.domain.agent_input import AgentInput
from narthex.domain.identity import Identity
from narthex.domain.mentions import unknown_addressee
from narthex.domain.titles import title_of
from narthex.errors import ClientError
from narthex.ports.broker import Position
from narthex.ports.runs import Run
from narthex.ports.tracing import current_span, ending

_ALONE: Final = ("reject", "interrupt")  # of `BUSY`: those that must find the thread idle, or make it idle
UNTITLED: Final = "New thread"  # of a thread whose first message has no words


class Started:
    """A new or existing run.

    Attributes:
        queued: whether it waits behind another.
        said_at: the channel's position after the user's message; None when the run, or the message, existed already.
        steered_by: id of the message that was given to this run, which was under way; empty: the run's own message.
    """

    __slots__ = ("queued", "run", "said_at", "steered_by")

    def __init__(self, run: Run, *, queued: bool, said_at: Position | None, steered_by: str = "") -> None:
        self.run = run
        self.queued = queued
        self.said_at = said_at
        self.steered_by = steered_by


class RunStarter:
    """See the module.

    Args:
        chat: threads and messages.
        engine: runs.
        quotas: messages a minute.
    """

    def __init__(self, chat: Chat, engine: RunEngine, quotas: Quotas) -> None:
        self._chat = chat
        self._engine = engine
        self._quotas = quotas
        self._alone: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def start(
        self,
        identity: Identity,
        *,
        text: str,
        client_message_id: str,
        thread_id: str | None = None,
        agent: str | None = None,
        create: bool = False,
        message_id: str = "",
        given: AgentInput | None = None,
        busy: str = "",
    ) -> Started:
        """Send a message in a thread and let an agent answer. Ids derive from the user and `client_message_id`.

        Args:
            identity: the sender.
            text: the message; empty where `given` has results of the client's tools, or the agent goes on without one.
            client_message_id: idempotency key, unique per user.
            thread_id: the thread; None begins a new one.
            agent: its name; None for the mentioned or the default one. A text that begins with a name that is
                neither an agent's nor a member's is refused.
            create: begin the thread `thread_id` if there is none (the gateway itself must have made the id: thread
                ids are one name space for all tenants).
            message_id: the message's id, if the client chose it; the same message again is not sent twice.
            given: what the client sends beside the message.
            busy: what the message does in a thread with a run (`domain.runs.BUSY`); empty: as the agent declares.

        Raises:
            ClientError: `text_too_large`, `input_too_large` (413), `agent_not_found`, `thread_not_found` (404),
                `client_message_id_used` (409: in another thread), `message_id_used`, `thread_busy` (409), those of
                `Chat.post_results`, `rate_limited`, `queue_full` (429). Unless two nodes took requests at the same
                moment, no message was sent then.
        """
        if (known := await self._known(identity, client_message_id, thread_id)) is not None:
            return known
        bounded(text)
        given = given or AgentInput()
        given.encoded()  # raises before a message is sent
        chosen = self._engine.choose(agent, text)
        busy = busy or chosen.busy
        named = None if agent else unknown_addressee(text, self._engine.agents)
        # It may be a member's name; an unknown name must not get another agent's answer.
        if named and (thread_id is None or not await self._chat.has_member(identity, thread_id, named)):
            raise self._engine.no_agent(named)
        self._quotas.take_message(identity)
        if thread_id is not None and (given.results or not create):
            await self._chat.require(identity, thread_id)
        else:
            thread_id = thread_id or derived_id("thread", identity, client_message_id)
            await self._chat.create(identity, title_of(text) or UNTITLED, thread_id)
        # The id depends on the text too: a repeat publishes and stores the same text under one id.
        message_id = message_id or derived_id(
            "message", identity, f"{client_message_id}\x00{thread_id}\x00{text}"
        )
        run_id = derived_id("run", identity, client_message_id)
        if busy == "steer" and text:
            steered = await self._steered(identity, thread_id, chosen.name, message_id, text)
            if steered is not None:
                return steered
        async with self._in_turn(busy, thread_id):
            # A repeat that waited behind its first request, and behind others, must not end or find busy their runs.
            if busy in _ALONE and (known := await self._known(identity, client_message_id, thread_id)):
                return known
            if busy == "interrupt":
                await self._engine.requests.cancel_thread(identity, thread_id, but=run_id)
            await self._engine.require_room(identity, thread_id, queue=busy != "reject", run_id=run_id)
            with ending(current_span().child("publish", kind="producer")) as span:
                if span.recording:
                    span.set({"messaging.operation.type": "send", "narthex.message_id": message_id})
                said_at, fresh = await self._said(identity, thread_id, message_id, text, given)
            if busy == "steer" and not fresh:
                earlier = await self._taken(identity, thread_id, message_id, said_at)
                if earlier is not None:
                    return earlier
            try:
                run, queued = await self._engine.start(
                    identity,
                    thread_id,
                    message_id,
                    text,
                    client_message_id,
                    chosen.name,
                    run_id=run_id,
                    after=said_at,
                    given=given,
                    queue=busy != "reject",
                )
            except ClientError as fault:
                # Deleted meanwhile: the message must not outlive the thread in the log.
                if fault.code == "thread_not_found":
                    await self._chat.forget(identity, thread_id)
                raise
            if busy == "interrupt":  # another node may have begun a run meanwhile
                await self._engine.requests.cancel_before(identity, thread_id, run.run_id)
        if run.thread_id != thread_id:  # begun at the same moment
            raise _used()
        return Started(run, queued=queued, said_at=said_at if fresh else None)

    async def _known(
        self, identity: Identity, client_message_id: str, thread_id: str | None
    ) -> Started | None:
        """The run that the client's id began before. Raises ClientError `client_message_id_used`."""
        known = await self._chat.run_of_message(identity, client_message_id)
        if known is None:
            return None
        if thread_id is not None and known.thread_id != thread_id:
            raise _used()
        return _existing(known)

    def _in_turn(self, busy: str, thread_id: str) -> AbstractAsyncContextManager[object]:
        """Lets messages that must find the thread idle, or make it idle, come one after the other."""
        if busy not in _ALONE:
            return nullcontext()
        return self._alone.setdefault(thread_id, asyncio.Lock())

    async def _said(
        self, identity: Identity, thread_id: str, message_id: str, text: str, given: AgentInput
    ) -> tuple[Position | None, bool]:
        """Publish what the run answers; a position after it, and whether it is new in the thread."""
        at: Position | None = None
        fresh = bool(given.results)
        if given.results:
            at = await self._chat.post_results(identity, thread_id, given.results)
        if text:
            at, fresh = await self._chat.say(identity, thread_id, message_id, text)
        return at, fresh

    async def _steered(
        self, identity: Identity, thread_id: str, agent: str, message_id: str, text: str
    ) -> Started | None:
        """Give the message to the thread's run, if its agent takes it now; None: it must wait like any other."""
        run = await self._engine.requests.running(identity, thread_id)
        if run is None or run.agent != agent or len(text.encode()) > STEER_BYTES:
            return None
        said_at, fresh = await self._chat.say(identity, thread_id, message_id, text)
        if not fresh:
            if _is_before(said_at, run):  # its own question, or an older one, under a new `client_message_id`
                return None  # it is answered again
            if (earlier := await self._taken(identity, thread_id, message_id, said_at)) is not None:
                return earlier
        # Also for a repeat that came while the first request still gives the message to the agent, which takes it once.
        if await self._engine.steering.take(identity, run, message_id, text, said_at):
            return Started(run, queued=False, said_at=None, steered_by=message_id)
        return None  # the message is sent, and gets a run of its own

    async def _taken(
        self, identity: Identity, thread_id: str, message_id: str, said_at: Position | None
    ) -> Started | None:
        """The run that accepted the message for its agent when it was sent before, or the one that answers it because
        that agent left it unread.
        """
        earlier = await self._engine.steering.run_of(identity, thread_id, message_id, said_at)
        if earlier is None:
            return None
        own = earlier.message_id == message_id
        return _existing(earlier, steered_by="" if own else message_id)


def _is_before(at: Position, run: Run) -> bool:
    """Whether a position is before a run's first event."""
    return at.offset <= run.start_offset or run.start_epoch not in ("", at.epoch)


def _existing(run: Run, *, steered_by: str = "") -> Started:
    """The answer for a message that was sent before."""
    return Started(run, queued=run.state == "queued", said_at=None, steered_by=steered_by)


def _used() -> ClientError:
    return ClientError(
        "client_message_id_used",
        "This client_message_id already started a run in another thread.",
        "Use a new id for every message.",
        number=409,
    )


def bounded(text: str) -> None:
    """Refuse a text that is too long. Raises ClientError `text_too_large` (413)."""
    if len(text.encode()) > TEXT_BYTES:
        raise ClientError(
            "text_too_large", f"The text is over {TEXT_BYTES // 1024} KB.", "Send it in parts.", number=413
        )
