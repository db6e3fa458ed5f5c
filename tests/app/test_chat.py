"""Threads, members and quotas on the real embedded engines: permissions, limits at N and N+1, and no double message."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.app.chat import MAX_OUTCOMES, Chat, derived_id
from narthex.app.exports import PAGE
from narthex.app.memberships import MembershipService
from narthex.app.notices import Notices
from narthex.app.quotas import Quotas
from narthex.app.thread_view import OutcomesPlace
from narthex.domain.channels import channel_key
from narthex.domain.identity import Identity
from narthex.domain.plans import PLANS, plan_of
from narthex.errors import ClientError, DependencyError
from narthex.ports.broker import IDEMPOTENCY_WINDOW_S, Control, Member, Position, Publication, Published
from narthex.ports.memberships import Invitation
from narthex.ports.runs import Run
from narthex.ports.threads import Message, ThreadMember

ADA, BOB, EVE = (Identity(subject=name) for name in ("ada", "bob", "eve"))
FOREIGN = Identity(subject="ada", tenant="other")


class RecordingHandler:
    """A broker handler that keeps control messages."""

    def __init__(self) -> None:
        self.controls: list[Control] = []

    def publication(self, channel: str, publication: Publication, epoch: str) -> None: ...
    def presence(self, channel: str, member: Member, joined: bool) -> None: ...
    def resync(self, channels: list[str] | None) -> None: ...

    def control(self, message: Control) -> None:
        self.controls.append(message)


class Rig:
    """Chat on real engines, with a clock that tests move."""

    def __init__(self, directory: Path) -> None:
        self.log_ahead_s = 0.0
        self.broker = SqliteBroker(directory / "log.db", clock=lambda: time.time() + self.log_ahead_s)
        self.store = SqliteStore(directory / "narthex.db")
        self.handler = RecordingHandler()
        self.time = 1_000.0
        self.chat = Chat(self.store, self.broker, Notices(self.broker), plan_of, self.now)
        self.memberships = MembershipService(
            self.store, self.broker, Notices(self.broker), self.chat, plan_of, self.now, direct="*"
        )
        self.quotas = Quotas(plan_of, self.store.runs, self.store.memberships, lambda _user: 1, self.now)

    def now(self) -> float:
        return self.time

    async def log(self, name: str, tenant: str = "default") -> list[bytes]:
        return [p.data for p in (await self.broker.history(channel_key(tenant, name))).publications]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path)
    await rig.store.start()
    await rig.broker.start(rig.handler, "node")
    yield rig
    await rig.broker.stop()
    await rig.store.stop()


async def test_a_message_posted_twice_is_one_message(rig: Rig) -> None:
    """Stored once and published once, which makes a repeated run.start harmless."""
    thread = await rig.chat.create(ADA, "t")
    first = await rig.chat.post(ADA, thread.thread_id, "m-1", "hello")
    again = await rig.chat.post(ADA, thread.thread_id, "m-1", "hello")
    assert (first.offset, again.offset) == (3, 3)
    assert len(await rig.log(f"thread:{thread.thread_id}")) == 3
    view = await rig.chat.view(ADA, thread.thread_id, None, 10)
    assert [message.content for message in view.messages] == ["hello"]


async def test_a_text_that_postgresql_cannot_hold_is_kept_as_it_can(rig: Rig) -> None:
    """A NUL becomes the replacement character before the text is stored, compared and published: as its store keeps it,
    the repeat (a steered text that its agent left unread) would look like another message with the same id.
    """
    thread_id = (await rig.chat.create(ADA, "t")).thread_id
    await rig.chat.say(ADA, thread_id, "m1", "a\0b")
    [stored] = await rig.store.threads.messages(ADA.tenant, thread_id, before=None, limit=10)
    assert stored.content == "a\ufffdb"
    said = [json.loads(data) for data in await rig.log(f"thread:{thread_id}")]
    assert [event["delta"] for event in said if "delta" in event] == ["a\ufffdb"]
    assert not (await rig.chat.say(ADA, thread_id, "m1", "a\0b"))[1]


async def said_kinds(rig: Rig, thread_id: str) -> list[str]:
    """The types of the events in a thread's log."""
    return [json.loads(data)["type"].rpartition("_")[2] for data in await rig.log(f"thread:{thread_id}")]


@pytest.mark.parametrize("kept", range(4))
@pytest.mark.parametrize("acknowledged", [True, False])
async def test_a_message_that_is_repeated_much_later_is_one_message(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, kept: int, acknowledged: bool
) -> None:
    """Its first attempt was partly done before an engine hung; the repeat, after the log forgot the keys, adds the
    rest.
    """
    thread_id = (await rig.chat.create(ADA, "t")).thread_id
    await rig.chat.post(ADA, thread_id, "m-0", "before")
    publish, told = rig.broker.publish, 0

    async def hangs(channel: str, data: bytes, *, key: str | None = None, **rest: Any) -> Published:
        nonlocal told
        if told == kept:
            raise DependencyError("broker", "It hangs.")
        told += 1
        found = await publish(channel, data, key=key)
        if told == kept and not acknowledged:
            raise DependencyError("broker", "It hangs.")
        return found

    monkeypatch.setattr(rig.broker, "publish", hangs)
    with contextlib.suppress(DependencyError):
        await rig.chat.post(ADA, thread_id, "m-1", "hello")
    monkeypatch.undo()
    rig.log_ahead_s = 2 * IDEMPOTENCY_WINDOW_S
    await rig.chat.post(ADA, thread_id, "m-2", "after")
    for _ in range(2):
        end = await rig.chat.post(ADA, thread_id, "m-1", "hello")
        kinds = await said_kinds(rig, thread_id)
        assert sorted(kinds) == sorted(["START", "CONTENT", "END"] * 3)
        log = [json.loads(data) for data in await rig.log(f"thread:{thread_id}")]
        mine = [n for n, event in enumerate(log, start=1) if event["messageId"] == "m-1"]
        assert [log[n - 1]["type"].rpartition("_")[2] for n in mine] == ["START", "CONTENT", "END"]
        assert end.offset == mine[-1]
    kept_rows = await rig.store.threads.messages("default", thread_id, before=None, limit=9)
    assert [row.message_id for row in kept_rows] == (
        ["m-0", "m-1", "m-2"] if kept else ["m-0", "m-2", "m-1"]
    ), "in the order of the log"


async def test_a_message_is_repeated_into_another_log(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log that may have had it is gone: the new one gets it once."""
    thread_id = (await rig.chat.create(ADA, "t")).thread_id

    async def hangs(*_: Any, **__: Any) -> None:
        raise DependencyError("store", "It hangs.")

    monkeypatch.setattr(rig.store.threads, "posted", hangs)
    with pytest.raises(DependencyError):
        await rig.chat.post(ADA, thread_id, "m-1", "hello")
    monkeypatch.undo()
    await rig.broker.remove(channel_key("default", f"thread:{thread_id}"))
    for _ in range(2):
        await rig.chat.post(ADA, thread_id, "m-1", "hello")
        assert await said_kinds(rig, thread_id) == ["START", "CONTENT", "END"]


async def test_a_message_whose_log_was_trimmed_is_not_said_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is unknown whether the log had it: it is in the store, which is enough."""
    thread_id = (await rig.chat.create(ADA, "t")).thread_id

    async def hangs(*_: Any, **__: Any) -> None:
        raise DependencyError("store", "It hangs.")

    monkeypatch.setattr(rig.store.threads, "posted", hangs)
    with pytest.raises(DependencyError):
        await rig.chat.post(ADA, thread_id, "m-1", "hello")
    monkeypatch.undo()
    last = await rig.chat.post(ADA, thread_id, "m-2", "after")
    await rig.broker.trim(channel_key("default", f"thread:{thread_id}"), Position(4, last.epoch))
    rig.log_ahead_s = 2 * IDEMPOTENCY_WINDOW_S
    await rig.chat.post(ADA, thread_id, "m-1", "hello")
    assert await said_kinds(rig, thread_id) == ["CONTENT", "END"]


async def test_a_stranger_and_another_tenant_see_the_same_nothing(rig: Rig) -> None:
    """One answer for "not yours" and "does not exist", for every call."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    for identity in (EVE, FOREIGN):
        for ask in (
            rig.chat.view(identity, thread, None, 10),
            rig.chat.rename(identity, thread, "x"),
            rig.chat.delete(identity, thread),
            rig.memberships.add(identity, thread, "eve"),
            rig.chat.mark_read(identity, thread, 1),
            rig.chat.typing(identity, thread),
            rig.chat.export(identity, thread),
            rig.chat.view(identity, "no-such-thread", None, 10),
        ):
            with pytest.raises(ClientError) as caught:
                await ask
            assert (caught.value.code, caught.value.number) == ("thread_not_found", 404)


async def test_the_members_of_a_thread_are_limited_by_the_plan(rig: Rig) -> None:
    """The owner and two more on `free`; the next is refused, and an existing member is not counted."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    for user in ("bob", "cid", "bob"):
        await rig.memberships.add(ADA, thread, user)
    assert PLANS["free"].thread_members == 3
    with pytest.raises(ClientError) as caught:
        await rig.memberships.add(ADA, thread, "dan")
    assert caught.value.code == "members_limit"


async def test_only_an_owner_removes_others_and_deletes(rig: Rig) -> None:
    """A member may leave; a member who leaves loses the channel on every node."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    await rig.memberships.add(ADA, thread, "bob")
    for ask in (rig.memberships.remove(BOB, thread, "ada"), rig.chat.delete(BOB, thread)):
        with pytest.raises(ClientError) as caught:
            await ask
        assert caught.value.code == "not_owner"
    await rig.memberships.remove(BOB, thread, "bob")
    assert rig.handler.controls[-1].kind == "unsubscribe"
    assert rig.handler.controls[-1].data["user"] == "default/bob"
    await rig.chat.delete(ADA, thread)
    assert await rig.log(f"thread:{thread}") == []
    with pytest.raises(ClientError):
        await rig.chat.view(ADA, thread, None, 10)


async def test_an_addition_under_way_fails_with_the_removal_of_its_inviter(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inviter is removed between the gateway's read of their role and the write."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    await rig.memberships.add(ADA, thread, "bob")
    store_add = rig.store.memberships.add

    async def removed_before(*args: Any, **options: Any) -> str:
        await rig.memberships.remove(ADA, thread, "bob")
        return await store_add(*args, **options)

    monkeypatch.setattr(rig.store.memberships, "add", removed_before)
    with pytest.raises(ClientError) as caught:
        await rig.memberships.add(BOB, thread, "cid")
    assert caught.value.code == "thread_not_found"
    assert [member.user_id for member in await rig.store.threads.members("default", thread)] == ["ada"]


@pytest.mark.parametrize("action", ["rename", "delete", "remove", "revoke"])
async def test_an_owner_who_is_removed_meanwhile_changes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    """They lose the thread between the gateway's read of their role and the write."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    for user in ("bob", "cid"):
        await rig.memberships.add(ADA, thread, user)
    owner = ThreadMember(user_id="eve", role="owner", joined_at=rig.time)
    assert await rig.store.threads.add_member("default", thread, owner, limit=None) == "added"
    token, _ = await rig.memberships.links.make(EVE, thread, 7)
    require = rig.chat.require
    looks = 0

    async def removed_after(identity: Identity, thread_id: str, *, owner: bool = False) -> str:
        nonlocal looks
        looks += 1
        role = await require(identity, thread_id, owner=owner)
        if looks == 1:
            await rig.store.threads.remove_member("default", thread, "ada")
        return role

    monkeypatch.setattr(rig.chat, "require", removed_after)
    actions = {
        "rename": lambda: rig.chat.rename(ADA, thread, "mine"),
        "delete": lambda: rig.chat.delete(ADA, thread),
        "remove": lambda: rig.memberships.remove(ADA, thread, "cid"),
        "revoke": lambda: rig.memberships.links.revoke(ADA, thread),
    }
    with pytest.raises(ClientError) as caught:
        await actions[action]()
    assert caught.value.code == "thread_not_found"
    view = await rig.chat.view(EVE, thread, None, 10)
    assert view.thread.title == "t"
    assert sorted(member.user_id for member in view.members) == ["bob", "cid", "eve"]
    assert await rig.memberships.links.of_thread(EVE, thread) is not None
    assert token


async def test_a_deletion_repeated_at_once_succeeds_twice(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices of an owner delete a thread together, or a store repeats a deletion: no error."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    store_delete = rig.store.threads.delete

    async def deleted_before(*args: Any, **options: Any) -> str:
        await store_delete(*args, **options)
        return await store_delete(*args, **options)

    monkeypatch.setattr(rig.store.threads, "delete", deleted_before)
    await rig.chat.delete(ADA, thread)
    assert await rig.store.threads.get("default", thread) is None


async def test_taking_back_an_invitation_removes_no_member(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The invited user accepts while the inviter, who is not an owner, withdraws the invitation: they stay."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    await rig.memberships.add(ADA, thread, "bob")
    by_bob = Invitation(
        thread_id=thread,
        tenant="default",
        user_id="cid",
        invited_by="bob",
        created_at=rig.time,
        member_limit=9,
    )
    assert await rig.store.memberships.add(by_bob, direct=False, additions=9, since=0.0) == "invited"
    withdraw = rig.store.memberships.withdraw

    async def accepted_before(*args: Any, **options: Any) -> Invitation | None:
        await rig.store.memberships.accept("default", thread, "cid", now=rig.time, since=0.0)
        return await withdraw(*args, **options)

    monkeypatch.setattr(rig.store.memberships, "withdraw", accepted_before)
    with pytest.raises(ClientError) as caught:
        await rig.memberships.remove(BOB, thread, "cid")
    assert caught.value.code == "not_owner"
    assert await rig.store.threads.role("default", thread, "cid") == "member"


async def test_messages_a_minute_at_the_limit_and_one_more(rig: Rig) -> None:
    """30 on `free`, then 429 with the wait; after it more are allowed."""
    limit = PLANS["free"].messages_per_minute
    for _ in range(limit):
        rig.quotas.take_message(ADA)
    with pytest.raises(ClientError) as caught:
        rig.quotas.take_message(ADA)
    assert caught.value.number == 429
    rig.quotas.take_message(BOB)
    rig.time += 60.0 / limit
    rig.quotas.take_message(ADA)
    shown = await rig.quotas.shown(ADA)
    assert shown["messages_per_minute"] == {"limit": limit, "left": 0}


def test_derived_ids_belong_to_one_user() -> None:
    """A client_message_id does not let a user derive the id of another user's thread."""
    assert derived_id("thread", ADA, "m") == derived_id("thread", ADA, "m")
    assert len({derived_id("thread", who, "m") for who in (ADA, BOB, FOREIGN)}) == 3
    assert derived_id("thread", ADA, "m") != derived_id("message", ADA, "m")


async def test_a_thread_that_is_there_already_is_given_as_it_is(rig: Rig) -> None:
    """Created again with another title: the first title stays and is returned."""
    await rig.chat.create(ADA, "first", "t-1")
    assert (await rig.chat.create(ADA, "second", "t-1")).title == "first"
    with pytest.raises(ClientError):
        await rig.chat.create(FOREIGN, "mine", "t-1")


async def test_whoever_stays_has_an_owner(rig: Rig) -> None:
    """The owner may leave: the longest-standing member becomes owner, and all members are notified."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    await rig.memberships.add(ADA, thread, "bob")
    await rig.memberships.remove(ADA, thread, "ada")
    assert await rig.chat.role(BOB, thread) == "owner"
    told = json.loads((await rig.log("user:bob"))[-1])
    assert (told["name"], told["value"]) == (
        "narthex.thread_owner",
        {"threadId": thread, "userId": "bob", "by": "ada"},
    )
    with pytest.raises(ClientError) as caught:
        await rig.memberships.remove(BOB, thread, "bob")
    assert (caught.value.code, caught.value.number) == ("last_member", 409)
    await rig.chat.delete(BOB, thread)


async def test_an_export_skips_nothing_at_a_pages_edge(rig: Rig) -> None:
    """Messages with the same time lie on both sides of a page's edge."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    wrote = [
        Message(message_id=f"m{n}", thread_id=thread, role="user", author="ada", content="x", created_at=2.0)
        for n in range(PAGE + 5)
    ]
    await rig.store.threads.add_messages("default", wrote)
    view, pages, _ = await rig.chat.export(ADA, thread)
    assert view.messages == []
    assert [message.message_id async for page in pages for message in page] == [
        one.message_id for one in wrote
    ]


async def test_the_list_names_the_runs_at_work_in_each_thread(rig: Rig) -> None:
    """A device that opens the page marks threads in which an agent is busy; ended runs are not named."""
    busy, idle = [(await rig.chat.create(ADA, name)).thread_id for name in ("busy", "idle")]
    for number, thread in enumerate((busy, busy, idle)):
        queued = Run(
            run_id=f"r{number}",
            thread_id=thread,
            tenant="default",
            user_id="ada",
            agent="bot",
            state="queued",
            client_message_id=f"c{number}",
            message_id=f"m{number}",
            created_at=rig.time,
        )
        await rig.store.runs.start(queued, queue_limit=100)
    await rig.store.runs.request_cancel("default", "r2", "ada", rig.time)
    listed = {one.title: sorted(one.active_runs) for one in await rig.chat.threads_of(ADA, None, 50)}
    assert listed == {"busy": ["r0", "r1"], "idle": []}


async def test_an_export_reads_outcomes_of_any_number(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """More runs than one page, many with the same time: each is there once, oldest first."""
    assert MAX_OUTCOMES == 200, "as docs/protocol.md says"
    monkeypatch.setattr("narthex.app.chat.MAX_OUTCOMES", 3)
    thread = (await rig.chat.create(ADA, "t")).thread_id
    moments = [1.0, 2.0, 2.0, 2.5, 3.0, 4.0, 4.0, 5.0]
    for number, moment in enumerate(moments):
        queued = Run(
            run_id=f"r{number}",
            thread_id=thread,
            tenant="default",
            user_id="ada",
            agent="bot",
            state="queued",
            client_message_id=f"c{number}",
            message_id=f"m{number}",
            created_at=moment,
        )
        await rig.store.runs.start(queued, queue_limit=100)
        await rig.store.runs.request_cancel("default", queued.run_id, "ada", moment + 0.5)
    _, _, ended = await rig.chat.export(ADA, thread)
    everything = [f"r{number}" for number in range(8)]
    assert [run.run_id for run in await ended(0.0, None)] == everything

    view = await rig.chat.view(ADA, thread, None, 50)
    shown, place = [run.run_id for run in view.outcomes], view.outcomes_next
    while place is not None:
        assert len(shown) % 3 == 0
        page = await rig.chat.outcomes(ADA, thread, place)
        shown, place = [run.run_id for run in page.outcomes] + shown, page.next
    assert shown == everything
    with pytest.raises(ClientError):
        await rig.chat.outcomes(EVE, thread, OutcomesPlace(since=0.0))
    assert [run.run_id for run in await ended(2.0, 4.0)] == ["r1", "r2", "r3", "r4"]
