"""The requests of AG-UI clients about a thread and its runs, under the client's own names.

Not here: transports (`web/agui`, `app/rpc/agui`), the request's form (`run_input`). Rules: a client's `threadId` and
`runId` are its names for a thread and a run; the same thread, `runId` and message give the same run, so that a repeat
continues where a stream broke; a thread or a run that the user may not see counts as absent.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import msgspec

from narthex.app.agui.connected import Connected
from narthex.app.agui.early_stops import EarlyStops
from narthex.app.agui.history import MAX_MESSAGES, interrupts, messages
from narthex.app.agui.names import ClientNames
from narthex.app.agui.run_input import Asked
from narthex.app.chat import Chat, derived_id
from narthex.app.runs.engine import RunEngine
from narthex.app.starting import RunStarter
from narthex.app.thread_view import ThreadView
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.events import Event
from narthex.domain.identity import Identity
from narthex.domain.ids import valid_id
from narthex.domain.runs import ACTIVE, RunState, run_not_found
from narthex.domain.threads import thread_not_found
from narthex.errors import ClientError
from narthex.ports.broker import Broker, Position
from narthex.ports.runs import Run
from narthex.ports.store import Store
from narthex.ports.threads import Message

PAGE: Final = 200  # messages of one read


class FollowedRun(msgspec.Struct, frozen=True):
    """A run to stream: from where, under which names; `cancels`: a client that leaves cancels it."""

    run: Run
    since: Position
    names: ClientNames
    cancels: bool = False


def _derived(*parts: str) -> str:
    """A thread id for a name, unique because all tenants and users share one name space of ids."""
    return hashlib.sha256("\x00".join(("agui-thread", *parts)).encode()).hexdigest()[:32]


class AguiRequests:
    """See the module. Every method but `names` raises ClientError."""

    def __init__(
        self, chat: Chat, engine: RunEngine, starter: RunStarter, store: Store, broker: Broker
    ) -> None:
        self._chat = chat
        self._engine = engine
        self._starter = starter
        self._store = store
        self._broker = broker
        self._early_stops = EarlyStops()

    async def run(self, identity: Identity, asked: Asked, agent: str) -> FollowedRun:
        """Start the run that a request asks for, answer its questions, or find the run that it began before."""
        thread_id, create = await self.thread(identity, asked.thread_id)
        if asked.resume:
            run, since = await self._resumed(identity, asked, thread_id)
        else:
            run, since = await self._begun(identity, asked, thread_id, agent, create=create)
        if self._early_stops.take(identity, asked.run_id):
            await self._engine.requests.cancel(identity, run.run_id)
        parent = await self._client_name(run.tenant, run.parent_run_id)
        names = ClientNames(asked.thread_id, asked.run_id, parent)
        return FollowedRun(run, since, names, cancels=asked.wishes.on_disconnect == "cancel")

    async def follow(self, identity: Identity, name: str, thread: str) -> FollowedRun:
        """A run of the user by its id or the client's name for it; `thread`: the client's name for its thread."""
        run, since = await self._found(identity, (await self.named(identity, name)).run_id)
        parent = await self._client_name(run.tenant, run.parent_run_id)
        return FollowedRun(run, since, ClientNames(thread or run.thread_id, name, parent))

    async def connect(self, identity: Identity, asked: Asked, agent: str, *, preamble: bool) -> Connected:
        """The thread that a client connects to; an empty one where the user has none of this name (yet). Without
        `preamble` the client has the stored messages, and continues after a position of its own.
        """
        thread_id, create = await self.thread(identity, asked.thread_id)
        view: ThreadView | None = None
        rows: list[Message] = []
        exists = await self._chat.role(identity, thread_id) is not None
        if not exists and not create:
            raise thread_not_found()
        if exists and preamble:
            view, rows = await self.view(identity, thread_id, None, "")
        return Connected(
            real_id=thread_id if exists else "",
            thread_id=asked.thread_id,
            run_id=asked.run_id,
            messages=messages(rows),
            state=view.states.get(agent) if view is not None else None,
            interrupts=interrupts(view.interrupts) if view is not None else [],
            at=Position(view.offset, view.epoch) if view is not None else Position(0, ""),
            whole_runs={row.run_id for row in rows if row.run_id},
            preamble=preamble,
            follow=asked.wishes.follow,
            result=await self._result(identity, view, agent) if view is not None else None,
        )

    async def _result(self, identity: Identity, view: ThreadView, agent: str) -> Any:
        """What the last run of a thread returned, for a client that was away at its end."""
        last = view.outcomes[-1] if view.outcomes and not view.runs else None
        if last is None or last.state != RunState.FINISHED or last.agent != agent:
            return None
        run = None if last.result else await self._store.runs.get(identity.tenant, last.run_id)  # a large one
        return msgspec.json.decode(run.result if run is not None else last.result or "null")

    async def exists(self, identity: Identity, name: str) -> bool:
        """Whether the user has a thread of this name. Raises ClientError `thread_not_found` for another's."""
        thread_id, may_create = await self.thread(identity, name)
        return not may_create or await self._chat.role(identity, thread_id) is not None

    async def view(
        self, identity: Identity, thread_id: str, before: float | None, before_id: str
    ) -> tuple[ThreadView, list[Message]]:
        """The thread, and its newest `MAX_MESSAGES` messages before a place."""
        view = await self._chat.view(identity, thread_id, before, PAGE, before_id, whole_runs=True)
        rows = page = view.messages
        while len(page) == PAGE and len(rows) < MAX_MESSAGES:
            older = await self._chat.view(identity, thread_id, page[0].created_at, PAGE, page[0].message_id)
            page, view.outcomes = older.messages, older.outcomes + view.outcomes
            rows = page + rows
        return view, rows

    async def before(self, identity: Identity, run_id: str) -> list[Event]:
        """What lets a stock client drop the messages of a void attempt: the thread without those of the run; nothing to
        a user who may not see it any more. It is no event of the run (`metadata.narthex.between`).
        """
        run = await self._store.runs.get(identity.tenant, run_id)
        if run is None or await self._chat.role(identity, run.thread_id) is None:
            return []
        _, rows = await self.view(identity, run.thread_id, None, "")
        kept = [row for row in rows if row.run_id != run_id]
        between = {"metadata": {"narthex": {"between": True}}}
        return [{"type": "MESSAGES_SNAPSHOT", "messages": messages(kept), **between}]

    async def thread(self, identity: Identity, name: str) -> tuple[str, bool]:
        """The thread that a client's `threadId` names, and whether it may have to be created.

        An id of the tenant's threads names that thread (404 unless the user is a member): the server makes ids, so
        another user cannot have taken it. Any other name is the user's own: two users' `main` are two threads.
        Earlier versions shared names within a tenant: for a member of such a thread, its name still names it.

        Raises:
            ClientError: `thread_not_found` (404): another user's, or no name at all.
        """
        if not valid_id(name):  # no store takes every text
            raise thread_not_found()
        if await self._store.threads.get(identity.tenant, name) is not None:
            await self._chat.require(identity, name)
            return name, False
        shared = _derived(identity.tenant, name)
        if await self._chat.role(identity, shared) is not None:
            return shared, False
        return _derived(identity.tenant, identity.subject, name), True

    async def existing(self, identity: Identity, name: str) -> str:
        """The id of the user's thread of this name; empty: they have none (yet)."""
        thread_id, _ = await self.thread(identity, name)
        return thread_id if await self._chat.role(identity, thread_id) is not None else ""

    async def named(self, identity: Identity, name: str) -> Run:
        """The run with an id, or the newest one that a client gave this name; the user's own ones first.

        Raises:
            ClientError: `run_not_found` (404).
        """
        return (await self._all_named(identity, name))[0]

    async def _all_named(self, identity: Identity, name: str) -> list[Run]:
        """`named`, then the other runs of its thread that the user's clients gave the same name, newest first."""
        if not valid_id(name):  # no store takes every text
            raise run_not_found()
        run = await self._store.runs.get(identity.tenant, name)
        candidates = [run] if run is not None else await self._store.runs.by_client_run(identity.tenant, name)
        for run in sorted(candidates, key=lambda one: one.user_id != identity.subject):
            if await self._chat.role(identity, run.thread_id) is not None:
                place = (run.thread_id, run.user_id)
                return [one for one in candidates if (one.thread_id, one.user_id) == place]
        raise run_not_found()

    async def names(self, tenant: str, thread: str, run_id: str, parent_run_id: str) -> ClientNames:
        """The names that clients gave a run and its parent, else their ids."""
        parent = await self._client_name(tenant, parent_run_id)
        return ClientNames(thread, await self._client_name(tenant, run_id), parent)

    async def cancel(self, identity: Identity, name: str) -> dict[str, Any]:
        """Cancel a run by its id or the client's name: `{run_id, state}`. Where the client has given several runs of
        the thread the same name, each of them that is queued or running ends, and the answer is about the first one.
        """
        runs = await self._all_named(identity, name)
        ended = [
            await self._engine.requests.cancel(identity, run.run_id)
            for run in [run for run in runs if run.state in ACTIVE] or runs[:1]  # those that wait come first
        ]
        return ended[-1]

    async def cancel_thread(self, identity: Identity, name: str, run_name: str = "") -> None:
        """Cancel the run of a thread that a client names, whether it goes on or not, also one whose request is on its
        way; without one in this thread, every queued and running run of it.
        """
        thread_id, _ = await self.thread(identity, name)
        known = valid_id(run_name)
        named = await self._store.runs.by_client_run(identity.tenant, run_name) if known else []
        ours = [run for run in named if run.thread_id == thread_id]
        if known and not ours:
            self._early_stops.note(identity, run_name)
        await self._chat.require(identity, thread_id)
        for run in ours:
            await self._engine.requests.cancel(identity, run.run_id)
        if not ours:
            await self._engine.requests.cancel_thread(identity, thread_id)

    # -- inside --------------------------------------------------------------------------------------------

    async def _client_name(self, tenant: str, run_id: str) -> str:
        """The name that a client gave a run, else its id."""
        run = await self._store.runs.get(tenant, run_id) if run_id else None
        return run.client_run_id or run_id if run is not None else run_id

    async def _begun(
        self, identity: Identity, asked: Asked, thread_id: str, agent: str, *, create: bool
    ) -> tuple[Run, Position]:
        """Start the run that a request asks for; the same thread, run and message again give the same one."""
        message = asked.message
        message_id = message.message_id if message is not None else asked.given.results[-1].message_id
        key = f"{thread_id}\x00{asked.run_id}\x00{message_id}"
        started = await self._starter.start(
            identity,
            text=message.text if message is not None else "",
            client_message_id=derived_id("agui", identity, key),
            thread_id=thread_id,
            agent=agent,
            create=create,
            # An id that no store or channel takes is replaced; a stock client's is a UUID.
            message_id=message_id if message is not None and valid_id(message_id) else "",
            given=asked.given,
            busy=asked.wishes.busy,
        )
        if started.said_at is not None:
            return started.run, started.said_at
        return await self._found(identity, started.run.run_id)

    async def _resumed(self, identity: Identity, asked: Asked, thread_id: str) -> tuple[Run, Position]:
        """Answer interrupts of the thread; returns the run in which its agent continues."""
        answered: dict[str, Any] = {}
        for entry in asked.resume:
            known = valid_id(entry.interrupt_id)  # no database takes every text
            interrupt = (
                await self._store.runs.interrupt(identity.tenant, entry.interrupt_id) if known else None
            )
            if interrupt is None or interrupt.thread_id != thread_id:
                raise ClientError(
                    "interrupt_not_found",
                    "The thread has no question with this id.",
                    "Read the thread again for its open questions.",
                    number=404,
                )
            answered = await self._engine.requests.resume(
                identity,
                interrupt.run_id,
                entry.interrupt_id,
                entry.payload,
                dismissed=entry.status == "cancelled",
                given=asked.given,
            )
        if answered["open_questions"]:
            raise ClientError(
                "interrupts_open",
                f"The run asked {answered['open_questions']} more questions.",
                "Answer all interrupts of the run in one `resume`; the answers given so far count.",
                number=409,
            )
        return await self._found(identity, str(answered["run_id"]))

    async def _found(self, identity: Identity, run_id: str) -> tuple[Run, Position]:
        """A run of the user, and a position before its first event. The position is read first: a run that has not
        begun when its row is read begins after that position.
        """
        run = await self._store.runs.get(identity.tenant, run_id)
        if run is None or await self._chat.role(identity, run.thread_id) is None:
            raise run_not_found()
        key = channel_key(run.tenant, thread_channel(run.thread_id))
        top = (await self._broker.history(key, limit=0)).top
        run = await self._store.runs.get(identity.tenant, run_id) or run
        if (
            run.started_at or run.state not in ACTIVE
        ):  # else it has no event yet, and `start_offset` may be long gone
            return run, Position(run.start_offset, "")
        return run, top
