"""Threads and users' messages: permissions in a thread, and the one publish path for messages.

Not here: runs (app/runs), the form of RPC params (app/rpc). Rules: every call names the identity and touches
only its tenant; a thread without the user as a member and one that does not exist give the same answer; a message is
stored, then published, both idempotent by its id, so that a repeat after a crash adds nothing; data past the
limit of its owner's plan looks as if it were deleted.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from narthex.app.exports import pages
from narthex.app.notices import Notices
from narthex.app.owner_plans import OwnerPlans
from narthex.app.thread_view import (
    ActiveRun,
    EndedBetween,
    EndedRun,
    InvitedUser,
    ListedThread,
    OpenQuestion,
    OutcomesPage,
    OutcomesPlace,
    ThreadView,
    ended_in,
)
from narthex.app.tool_results import answered, call_answered, call_of, from_user
from narthex.domain.agent_input import ToolResult
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.events import text_content, text_end, text_start, tool_call_result
from narthex.domain.identity import Identity
from narthex.domain.plans import DAY_S, INVITATION_DAYS, Plan
from narthex.domain.runs import RunState, run_active
from narthex.domain.threads import storable, thread_not_found
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import Broker, Control, Position
from narthex.ports.runs import Run
from narthex.ports.store import Store
from narthex.ports.threads import KEEPS_ALL, Hit, Kept, LogCut, Message, Thread
from narthex.protocol.replies import encode_json

TITLE_CHARS: Final = 200
MAX_OUTCOMES: Final = 200  # ended runs that come with a page of messages, the newest first
TAIL: Final = 50  # publications at a log's end in which an end of a run is searched
SETTLE_S: Final = (
    1.0  # between a run's last event and its row lie two commits; longer means that an engine is down
)
SETTLE_STEP_S: Final = 0.02
MAX_CALLS: Final = 200  # newest messages among which the calls of results are: those that the agent gets
TEXT_BYTES: Final = 32 * 1024  # half of a message's 64 KB: it comes back inside an event


class Chat:
    """The threads and messages of one node; see the module.

    Args:
        store: threads and runs.
        broker: their logs.
        notices: to users' devices.
        plans: gives the plan of an identity.
        now: seconds since the epoch.
        kept: since when messages are kept, by plan, as of now; None: nothing is hidden (nothing reads threads).
    """

    def __init__(
        self,
        store: Store,
        broker: Broker,
        notices: Notices,
        plans: Callable[[Identity], Plan],
        now: Callable[[], float],
        *,
        kept: Callable[[], Kept] | None = None,
    ) -> None:
        self._threads = store.threads
        self._memberships = store.memberships
        self._runs = store.runs
        self._broker = broker
        self._notices = notices
        self._plans = plans
        self._now = now
        self._kept = kept or (lambda: KEEPS_ALL)
        self.owner_plans = OwnerPlans(store.threads, plans, now)

    # -- rights --------------------------------------------------------------------------------------------

    async def role(self, identity: Identity, thread_id: str) -> str | None:
        """`owner` or `member`, or None: not a member, or no such thread."""
        await self.owner_plans.seen(identity)
        return await self._threads.role(identity.tenant, thread_id, identity.subject, kept=self._kept())

    async def has_member(self, identity: Identity, thread_id: str, user_id: str) -> bool:
        """Whether `user_id` is a member of one of the caller's threads. Raises DependencyError."""
        if await self.role(identity, thread_id) is None:
            return False
        return await self._threads.role(identity.tenant, thread_id, user_id, kept=self._kept()) is not None

    async def require(self, identity: Identity, thread_id: str, *, owner: bool = False) -> str:
        """The user's role, or the error for a user who is no member.

        Raises:
            ClientError: `thread_not_found` (404), or `not_owner` (403) for a member who is no owner.
        """
        role = await self.role(identity, thread_id)
        if role is None:
            raise thread_not_found()
        if owner and role != "owner":
            raise ClientError(
                "not_owner", "Only an owner of the thread may do this.", "Ask an owner.", number=403
            )
        return role

    # -- threads -------------------------------------------------------------------------------------------

    async def create(self, identity: Identity, title: str, thread_id: str = "") -> Thread:
        """A new thread of which `identity` is the owner; with a given id, the existing one. The owner's own thread
        that is past its limit and not deleted yet is deleted to free its id.

        Raises:
            ClientError: `threads_limit` (429): the owner's plan allows no more.
        """
        now = self._now()
        thread = Thread(
            thread_id=thread_id or uuid.uuid4().hex,
            tenant=identity.tenant,
            title=title[:TITLE_CHARS],
            created_by=identity.subject,
            created_at=now,
            updated_at=now,
        )
        made = await self._insert(identity, thread)
        if not made and await self._made_way(identity, thread.thread_id):
            made = await self._insert(identity, thread)
        if not made:
            await self.require(identity, thread.thread_id)
            return await self._threads.get(identity.tenant, thread.thread_id) or thread
        await self._notices.send(
            identity.tenant,
            [identity.subject],
            "narthex.thread_created",
            {"threadId": thread.thread_id, "title": thread.title},
            key=f"created:{thread.thread_id}",
        )
        return thread

    async def _insert(self, identity: Identity, thread: Thread) -> bool:
        owner = self.owner_plans.plan_of(identity)
        return await self._threads.create(
            thread,
            plan=owner.plan,
            plan_at=owner.at,
            limit=self._plans(identity).threads,
            kept=self._kept(),
        )

    async def threads_of(
        self, identity: Identity, before: float | None, limit: int, before_id: str = ""
    ) -> list[ListedThread]:
        """The user's threads, most recently updated first. A page begins after (`before`, `before_id`): moment and
        id of the last page's last thread.
        """
        await self.owner_plans.seen(identity)
        found = await self._threads.list_for(
            identity.tenant,
            identity.subject,
            before=before,
            before_id=before_id,
            limit=limit,
            kept=self._kept(),
        )
        active: dict[str, list[str]] = {thread.thread_id: [] for thread in found}
        for thread_id, run_id in await self._runs.active_in_threads(identity.tenant, list(active)):
            active[thread_id].append(run_id)
        return [
            ListedThread(**msgspec.structs.asdict(thread), active_runs=active[thread.thread_id])
            for thread in found
        ]

    async def view(
        self,
        identity: Identity,
        thread_id: str,
        before: float | None,
        limit: int,
        before_id: str = "",
        *,
        whole_runs: bool = False,
    ) -> ThreadView:
        """A thread with its newest messages before (`before`, `before_id`): moment and id of the oldest known
        message. The order of the reads makes it gapless: the position first, then the active runs, then the finished
        ones (a run's messages are stored before it counts as ended).

        A run whose end is in the log already is not shown as active, though its row may still be written; the
        offset lies before it, so that its events which are not in `messages` yet come live. With `whole_runs`, for
        readers that follow runs instead of the log, every run is here: the rows are waited for, and a run whose row
        does not come in time is shown as active.
        """
        role = await self.require(identity, thread_id)
        name = thread_channel(thread_id)
        tenant = identity.tenant
        page = await self._broker.history(channel_key(tenant, name), limit=0)
        active = await self._runs.active_in_thread(tenant, thread_id)
        ended = await self._ended(identity, thread_id, active)
        if whole_runs:
            active, ended = await self._written(identity, thread_id, active, ended), set()
        kept = self._kept()
        thread = await self._threads.get(tenant, thread_id, kept=kept)
        messages = await self._threads.messages(
            tenant, thread_id, before=before, before_id=before_id, limit=limit, kept=kept
        )
        if thread is None:
            raise thread_not_found()
        starts = [run.start_offset for run in active if run.started_at]
        outcomes = await self._outcomes(tenant, thread_id, messages, before, whole=len(messages) < limit)
        return ThreadView(
            thread=thread,
            role=role,
            messages=messages,
            members=await self._threads.members(tenant, thread_id),
            invited=[
                InvitedUser(user_id=one.user_id, invited_by=one.invited_by, created_at=one.created_at)
                for one in await self._memberships.invited(
                    tenant, thread_id, since=self._now() - INVITATION_DAYS * DAY_S
                )
            ],
            runs=[ActiveRun.of(run) for run in active if run.run_id not in ended],
            # A run that ended between these reads is shown as active, so it is followed live.
            outcomes=[
                run
                for run in outcomes.outcomes
                if run.run_id in ended or all(run.run_id != other.run_id for other in active)
            ],
            outcomes_next=outcomes.next,
            interrupts=[
                OpenQuestion.of(interrupt)
                for interrupt in await self._runs.open_interrupts(tenant, thread_id)
            ],
            states={
                agent: msgspec.json.decode(state)
                for agent, state in (await self._runs.agent_states(tenant, thread_id)).items()
            },
            channel=name,
            offset=min([page.top.offset, *starts]),
            epoch=page.top.epoch,
        )

    async def _outcomes(
        self, tenant: str, thread_id: str, messages: list[Message], before: float | None, *, whole: bool
    ) -> OutcomesPage:
        """How the runs of a page of messages ended; `whole`: there are no earlier messages."""
        first = 0.0 if whole or not messages else messages[0].created_at
        of_messages = {message.run_id for message in messages if message.run_id}
        place = OutcomesPlace(since=first, before=before)
        return await self._ended_between(tenant, thread_id, place, of_messages)

    async def outcomes(self, identity: Identity, thread_id: str, place: OutcomesPlace) -> OutcomesPage:
        """How earlier runs of a thread ended, at most `MAX_OUTCOMES`. Raises ClientError (as `require`)."""
        await self.require(identity, thread_id)
        return await self._ended_between(identity.tenant, thread_id, place)

    async def _ended_between(
        self,
        tenant: str,
        thread_id: str,
        place: OutcomesPlace,
        run_ids: Collection[str] = (),
    ) -> OutcomesPage:
        found = await self._runs.outcomes(
            tenant,
            thread_id,
            since=place.since,
            before=place.before,
            before_id=place.before_id,
            run_ids=run_ids,
            limit=MAX_OUTCOMES,
            kept=self._kept(),
        )
        asking = [run.run_id for run in found if run.state == RunState.INTERRUPTED]
        asked = await self._runs.interrupts_of(tenant, thread_id, asking)
        rest = None
        if len(found) >= MAX_OUTCOMES and found[0].created_at >= place.since:
            first = found[0]
            rest = OutcomesPlace(since=place.since, before=first.created_at, before_id=first.run_id)
        return OutcomesPage(outcomes=[EndedRun.of(run, asked) for run in found], next=rest)

    async def _all_ended_between(
        self, tenant: str, thread_id: str, since: float, before: float | None
    ) -> list[EndedRun]:
        """All runs that ended between two moments, oldest first."""
        found: list[EndedRun] = []
        place: OutcomesPlace | None = OutcomesPlace(since=since, before=before)
        while place is not None:
            page = await self._ended_between(tenant, thread_id, place)
            found, place = page.outcomes + found, page.next
        return found

    async def export(
        self, identity: Identity, thread_id: str
    ) -> tuple[ThreadView, AsyncIterator[list[Message]], EndedBetween]:
        """As `view` without messages and outcomes; all present messages in pages, oldest first; and a function that
        reads the outcomes between two moments. A thread of any length is never held whole.
        """
        found = await self.view(identity, thread_id, None, 1)
        until_id = found.messages[0].message_id if found.messages else ""
        found.messages, found.outcomes, found.outcomes_next = [], [], None
        return (
            found,
            pages(self._threads, identity.tenant, thread_id, until_id=until_id, kept=self._kept),
            functools.partial(self._all_ended_between, identity.tenant, thread_id),
        )

    async def rename(self, identity: Identity, thread_id: str, title: str) -> None:
        """Any member may rename; all members' devices get a notice."""
        await self.require(identity, thread_id)
        title, subject = title[:TITLE_CHARS], identity.subject
        if not await self._threads.rename(identity.tenant, thread_id, title, self._now(), by=subject):
            raise thread_not_found()  # they were removed since
        await self.notify_members(
            identity.tenant,
            thread_id,
            "narthex.thread_renamed",
            {"threadId": thread_id, "title": title},
        )

    async def delete(self, identity: Identity, thread_id: str) -> None:
        """An owner deletes the thread for all members: rows, journal, subscriptions.

        Raises:
            ClientError: `thread_not_found` (404), `not_owner` (403), `thread_busy` (409).
        """
        await self.require(identity, thread_id, owner=True)
        members = await self._threads.members(identity.tenant, thread_id)
        await self._delete_idle(identity, thread_id)
        await self._remove_log(identity.tenant, thread_id)
        await self._notices.send(
            identity.tenant,
            [member.user_id for member in members],
            "narthex.thread_deleted",
            {"threadId": thread_id, "by": identity.subject},
        )

    async def _made_way(self, identity: Identity, thread_id: str) -> bool:
        """Whether the user's own thread, which is hidden already, is gone now, so that its id is free."""
        role = await self._threads.role(identity.tenant, thread_id, identity.subject)
        if role != "owner" or await self.role(identity, thread_id) is not None:
            return False
        if await self._threads.delete(identity.tenant, thread_id, by=identity.subject) != "deleted":
            return False
        await self._remove_log(identity.tenant, thread_id)
        return True

    async def _remove_log(self, tenant: str, thread_id: str) -> None:
        """Remove the log after the rows: no client subscribes to it or reads it any more."""
        key = channel_key(tenant, thread_channel(thread_id))
        await self._broker.control(Control("unsubscribe", {"channel": key, "user": "", "stored": True}))
        await self._broker.remove(key)
        with contextlib.suppress(DependencyError):  # the next round of the retention does it again
            await self._threads.log_cut_done(LogCut(tenant=tenant, thread_id=thread_id, before=0.0))

    async def _delete_idle(self, identity: Identity, thread_id: str) -> None:
        """Delete the rows. Waits for runs whose end is in the log: their rows are being written."""
        patience = round(SETTLE_S / SETTLE_STEP_S)
        tenant = identity.tenant
        while (outcome := await self._threads.delete(tenant, thread_id, by=identity.subject)) != "deleted":
            if outcome == "absent":
                if await self._threads.get(tenant, thread_id) is None:
                    return  # deleted already
                await self.require(
                    identity, thread_id, owner=True
                )  # they were removed since: raises the reason
            active = await self._runs.active_in_thread(identity.tenant, thread_id)
            ended = await self._ended(identity, thread_id, active)
            if patience == 0 or any(run.run_id not in ended for run in active):
                raise ClientError(
                    "thread_busy", "The thread has a run in progress.", "Cancel the run first.", number=409
                )
            patience -= 1
            await asyncio.sleep(SETTLE_STEP_S)

    async def _ended(self, identity: Identity, thread_id: str, active: list[Run]) -> set[str]:
        """The active runs whose terminal event stands at the end of the thread's log."""
        if not any(run.started_at for run in active):
            return set()
        key = channel_key(identity.tenant, thread_channel(thread_id))
        page = await self._broker.history(key, limit=TAIL, reverse=True)
        return ended_in(page.publications)

    async def _written(
        self, identity: Identity, thread_id: str, active: list[Run], ended: set[str]
    ) -> list[Run]:
        """The active runs, once the rows of those whose end is in the log are written; after `SETTLE_S` in any case."""
        for _ in range(round(SETTLE_S / SETTLE_STEP_S)):
            if not any(run.run_id in ended for run in active):
                break
            await asyncio.sleep(SETTLE_STEP_S)
            active = await self._runs.active_in_thread(identity.tenant, thread_id)
        return active

    async def forget(self, identity: Identity, thread_id: str) -> None:
        """Remove the log of a thread that is gone: an event was published into it after its deletion."""
        await self._broker.remove(channel_key(identity.tenant, thread_channel(thread_id)))

    async def search(self, identity: Identity, text: str, limit: int) -> list[Hit]:
        """Full text over the user's own threads."""
        await self.owner_plans.seen(identity)
        return await self._threads.search(
            identity.tenant, identity.subject, text, limit=limit, kept=self._kept()
        )

    # -- members -------------------------------------------------------------------------------------------

    async def notify_members(
        self, tenant: str, thread_id: str, name: str, value: Mapping[str, object], *, key: str = ""
    ) -> None:
        """A notice to every device of every member."""
        members = await self._threads.members(tenant, thread_id)
        await self._notices.send(tenant, [member.user_id for member in members], name, value, key=key)

    async def mark_read(self, identity: Identity, thread_id: str, offset: int) -> None:
        """Move the read marker; the other members see it (ephemeral: the store has it)."""
        await self.require(identity, thread_id)
        if await self._threads.mark_read(identity.tenant, thread_id, identity.subject, offset):
            await self.ephemeral(
                identity, thread_id, "narthex.read", {"userId": identity.subject, "offset": offset}
            )

    async def typing(self, identity: Identity, thread_id: str) -> None:
        """Show the other members that the user types."""
        await self.require(identity, thread_id)
        await self.ephemeral(
            identity, thread_id, "narthex.typing", {"userId": identity.subject, "name": identity.name}
        )

    async def ephemeral(
        self, identity: Identity, thread_id: str, name: str, value: Mapping[str, object]
    ) -> None:
        """A CUSTOM event on the thread's channel that is in no history and has no offset."""
        event = {"type": "CUSTOM", "name": name, "value": dict(value), "threadId": thread_id}
        key = channel_key(identity.tenant, thread_channel(thread_id))
        await self._broker.control(
            Control("ephemeral", {"channel": key, "data": encode_json(event).decode()})
        )

    async def run_of_message(self, identity: Identity, client_message_id: str) -> Run | None:
        """The run that the user's `client_message_id` began, or None."""
        return await self._runs.by_client_message(identity.tenant, identity.subject, client_message_id)

    # -- messages ------------------------------------------------------------------------------------------

    async def post(self, identity: Identity, thread_id: str, message_id: str, text: str) -> Position:
        """As `say`; returns the position."""
        return (await self.say(identity, thread_id, message_id, text))[0]

    async def say(
        self, identity: Identity, thread_id: str, message_id: str, text: str
    ) -> tuple[Position, bool]:
        """Store and publish a user's message; the caller has checked the right. Idempotent by `message_id` as long as
        the store has it: a repeat publishes only the events that the log lacks, however late it comes.

        Returns:
            The channel's position after the message, and whether it is new in the thread.

        Raises:
            ClientError: `message_id_used` (409): another message of the thread has this id.
        """
        text = storable(text)
        key = channel_key(identity.tenant, thread_channel(thread_id))
        after = self._broker.known_position(key) or (await self._broker.history(key, limit=0)).top
        message = Message(
            message_id=message_id,
            thread_id=thread_id,
            role="user",
            author=identity.subject,
            content=text,
            created_at=self._now(),
            # as in the live event: a device that opens the thread later has no other source for a name
            detail=encode_json({"name": identity.name}).decode() if identity.name else "{}",
        )
        kept = await self._threads.post(identity.tenant, message, after)
        if not kept.same:
            raise ClientError(
                "message_id_used",
                "Another message of the thread has this id.",
                "Give every message an id of its own, for example a random UUID.",
                number=409,
            )
        if kept.at is not None:
            return kept.at, False
        there: dict[int, Position] = {}
        if kept.after is not None:
            there = await self._said_of(key, message_id, kept.after)
        about = {"threadId": thread_id, "userId": identity.subject, "name": identity.name}
        events = [
            text_start(message_id, "user") | about,
            text_content(message_id, text) | {"threadId": thread_id},
            text_end(message_id) | {"threadId": thread_id},
        ]
        for number, event in enumerate(events):
            if number not in there:
                found = await self._broker.publish(key, encode_json(event), key=f"msg:{message_id}:{number}")
                there[number] = Position(found.offset, found.epoch)
        place = (there[0], there[2].offset)
        if not await self._threads.posted(identity.tenant, thread_id, message_id, *place):
            # The store lost it meanwhile: it went back in time (a fail-over, a restored copy).
            await self._threads.post(identity.tenant, message, after)
            await self._threads.posted(identity.tenant, thread_id, message_id, *place)
        return there[2], True

    async def post_results(
        self, identity: Identity, thread_id: str, results: Sequence[ToolResult]
    ) -> Position:
        """Store results of tools that the user's client ran, and publish them for the other devices. Of two results of
        one call the first one counts. A result that the user sent before, or that the agent gave, changes nothing, and
        neither does another member's beside one of the user's. Returns the channel's position after them.

        Raises:
            ClientError: `tool_results_not_taken` (422): one is of no call of the thread's; `run_active` (409): the run
                that made the calls has not ended; `tool_call_answered` (409): another result of a call came first.
        """
        key = channel_key(identity.tenant, thread_channel(thread_id))
        at = (await self._broker.history(key, limit=0)).top
        calls = await self._calls(identity, thread_id, results)
        given = from_user(calls, results, identity.subject)
        answers = [answered(call, result, identity.subject) for call, result in given]
        if not await self._threads.answer_calls(identity.tenant, thread_id, answers):
            raise call_answered()
        for call, result in given:
            event = tool_call_result(result.message_id, call.message_id, result.content)
            event |= {"threadId": thread_id, "userId": identity.subject}
            if result.error:
                event["error"] = result.error
            found = await self._broker.publish(
                key, encode_json(event), key=f"result:{call.message_id}:{result.message_id}"
            )
            at = Position(found.offset, found.epoch)
        return at

    async def _calls(
        self, identity: Identity, thread_id: str, results: Sequence[ToolResult]
    ) -> list[Message]:
        """The stored calls of results, once the runs whose end is in the log are stored. Raises as `post_results`."""
        tenant = identity.tenant
        active = await self._runs.active_in_thread(tenant, thread_id)
        ended = await self._ended(identity, thread_id, active)
        active = await self._written(identity, thread_id, active, ended)
        rows = await self._threads.messages(tenant, thread_id, before=None, limit=MAX_CALLS)
        calls = [call_of(rows, result.tool_call_id) for result in results]
        if all(calls):
            return [call for call in calls if call is not None]
        if any(run.started_at for run in active):
            raise run_active()
        raise ClientError(
            "tool_results_not_taken",
            "The thread has no call with the `toolCallId` of a result.",
            "Send results of calls that the agent made, or a user message.",
            number=422,
        )

    async def _said_of(self, key: str, message_id: str, after: Position) -> dict[int, Position]:
        """The message's three events that the log has already from an earlier try, by their number."""
        kinds = ("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END")
        page = await self._broker.history(key, since=after)
        if not page.complete:  # another log, or its beginning was trimmed: take the events that are left
            if page.top.epoch == after.epoch and page.top.offset > after.offset:
                # Trimmed: most likely the message was published, thousands of publications ago.
                return dict.fromkeys(range(3), Position(after.offset + 1, after.epoch))
            page = await self._broker.history(key)
        there: dict[int, Position] = {}
        wanted = message_id.encode()
        while page.publications:
            for publication in page.publications:
                if wanted not in publication.data:
                    continue
                event = msgspec.json.decode(publication.data)
                if event.get("messageId") == message_id and event.get("type") in kinds:
                    at = Position(publication.offset, page.top.epoch)
                    there.setdefault(kinds.index(event["type"]), at)
            last = page.publications[-1].offset
            if last >= page.top.offset:
                break
            page = await self._broker.history(key, since=Position(last, page.top.epoch))
        return there


def derived_id(kind: str, identity: Identity, client_message_id: str) -> str:
    """An id that the same user's same `client_message_id` always gives; it makes `run.start` repeatable."""
    text = "\x00".join((kind, identity.tenant, identity.subject, client_message_id))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
