"""After a lost control message a removed user loses the channel once the broker is back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from narthex.app import membership_audit
from narthex.app.membership_audit import MembershipAudit
from narthex.errors import DependencyError
from narthex.ports.broker import Control
from narthex.ports.threads import Membership
from narthex.testing import gateway
from narthex.wiring.parts import Parts
from tests.app.test_commands import Raw, client
from tests.timing import within


class Flaky:
    """A store's threads that fail for the first `faults` calls.

    Attributes:
        asked: the number of calls.
    """

    def __init__(self, threads: Any, faults: int) -> None:
        self.threads = threads
        self.faults = faults
        self.asked = 0

    async def still_members(self, asked: Collection[Membership]) -> Any:
        """See the port."""
        self.asked += 1
        if self.asked <= self.faults:
            raise DependencyError("store", "away", "wait")
        return await self.threads.still_members(asked)


def checking(parts: Parts, threads: Any) -> MembershipAudit:
    """A fast check of a node's subscribers against these threads."""
    core = parts.core
    return MembershipAudit(core.hub, core.subscriptions, core.tasks, threads, per_s=10_000, spread_s=0.0)


async def shared_thread(ada: Raw, bob: Raw) -> str:
    """A thread of ada's that bob is a member of; both are subscribed."""
    thread = str((await ada.rpc("thread.create"))["thread_id"])
    await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    for one in (ada, bob):
        assert "subscribe" in await one.call("subscribe", channel=f"thread:{thread}")
    return thread


async def test_a_removal_that_nobody_was_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a resync the removed member is unsubscribed for good; the others stay, and so does their own channel."""
    monkeypatch.setattr(membership_audit, "SPREAD_S", 0.0)
    async with gateway(tmp_path, direct_membership=("*",)) as running:
        ada, bob = await client(running, "ada"), await client(running, "bob")
        thread = await shared_thread(ada, bob)
        parts = running.gateway.parts
        assert parts is not None
        await parts.store.threads.remove_member("default", thread, "bob")
        before = parts.core.subscriptions._doubts
        parts.core.hub.resync(None)
        assert parts.core.subscriptions._doubts > before
        push = await bob.push("unsubscribe")
        assert (push["channel"], push["unsubscribe"]["code"]) == (f"thread:{thread}", 2000)
        left = parts.core.hub.subscribers(f"default/thread:{thread}")
        assert [one.identity.subject for one in left] == ["ada"]  # type: ignore[attr-defined]  # connections
        assert parts.core.hub.subscribers("default/user:bob")
        assert "error" in await bob.call("subscribe", channel=f"thread:{thread}")


async def test_a_removal_whose_sender_died_before_the_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message was lost and no check was requested: the next regular check finds that the store differs."""
    monkeypatch.setattr(membership_audit, "EVERY_S", 0.05)
    async with gateway(tmp_path, direct_membership=("*",)) as running:
        ada, bob = await client(running, "ada"), await client(running, "bob")
        thread = await shared_thread(ada, bob)
        parts = running.gateway.parts
        assert parts is not None
        await parts.store.threads.remove_member("default", thread, "bob")
        push = await bob.push("unsubscribe")
        assert (push["channel"], push["unsubscribe"]["code"]) == (f"thread:{thread}", 2000)
        assert "subscribe" not in await bob.call("subscribe", channel=f"thread:{thread}")
        left = parts.core.hub.subscribers(f"default/thread:{thread}")
        assert [one.identity.subject for one in left] == ["ada"]  # type: ignore[attr-defined]  # connections


async def test_a_removal_that_is_repeated_after_a_crash(tmp_path: Path) -> None:
    """The first attempt reached the store: the second is answered 404, and sends the message all the same."""
    async with gateway(tmp_path, direct_membership=("*",)) as running:
        ada, bob = await client(running, "ada"), await client(running, "bob")
        thread = await shared_thread(ada, bob)
        parts = running.gateway.parts
        assert parts is not None
        await parts.store.threads.remove_member("default", thread, "bob")
        answer = await ada.call(
            "rpc", method="thread.members.remove", data={"thread_id": thread, "user_id": "bob"}
        )
        assert answer["error"]["code"] == 404
        assert (await bob.push("unsubscribe"))["channel"] == f"thread:{thread}"


async def test_a_removal_that_was_sent_late_asks_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user was added again meanwhile, and stays; another, who was not, loses the channel."""
    monkeypatch.setattr(membership_audit, "SPREAD_S", 0.0)
    async with gateway(tmp_path, direct_membership=("*",)) as running:
        ada, bob, cleo = [await client(running, name) for name in ("ada", "bob", "cleo")]
        thread = await shared_thread(ada, bob)
        await ada.rpc("thread.members.add", thread_id=thread, user_id="cleo")
        assert "subscribe" in await cleo.call("subscribe", channel=f"thread:{thread}")
        parts = running.gateway.parts
        assert parts is not None
        await parts.store.threads.remove_member("default", thread, "cleo")
        for user in ("default/bob", "default/cleo"):
            parts.core.controls(
                Control(
                    "unsubscribe",
                    {"channel": f"default/thread:{thread}", "user": user, "stored": True, "late": True},
                )
            )
        assert (await cleo.push("unsubscribe"))["channel"] == f"thread:{thread}"
        left = parts.core.hub.subscribers(f"default/thread:{thread}")
        assert {one.identity.subject for one in left} == {"ada", "bob"}  # type: ignore[attr-defined]  # connections


async def test_a_store_that_is_away_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its faults remove no subscriber and keep none; requests that come together are one check."""
    monkeypatch.setattr(membership_audit, "RETRY_FIRST_S", 0.001)
    async with gateway(tmp_path, direct_membership=("*",)) as running:
        ada, bob = await client(running, "ada"), await client(running, "bob")
        thread = await shared_thread(ada, bob)
        parts = running.gateway.parts
        assert parts is not None
        await parts.store.threads.remove_member("default", thread, "bob")
        threads = Flaky(parts.store.threads, faults=3)
        check = checking(parts, threads)
        for _ in range(3):
            check.schedule()
        assert (await bob.push("unsubscribe"))["channel"] == f"thread:{thread}"
        async with asyncio.timeout(within(5)):
            while check._checking:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        assert threads.asked == 3 + 1  # requests from before it began are one check


class Slow:
    """A store's threads whose answer is delayed by `meanwhile`."""

    def __init__(self, threads: Any, meanwhile: Callable[[], Awaitable[None]]) -> None:
        self.threads = threads
        self.meanwhile = meanwhile

    async def still_members(self, asked: Collection[Membership]) -> Any:
        """See the port."""
        found = await self.threads.still_members(asked)
        await self.meanwhile()
        return found


async def test_who_came_while_the_store_was_asked_stays(tmp_path: Path) -> None:
    """The answer is older than their membership; their own subscription has already been checked."""
    async with gateway(tmp_path, direct_membership=("*",)) as running:
        ada, bob, cleo = [await client(running, name) for name in ("ada", "bob", "cleo")]
        thread = await shared_thread(ada, bob)
        parts = running.gateway.parts
        assert parts is not None

        async def join() -> None:
            await ada.rpc("thread.members.add", thread_id=thread, user_id="cleo")
            assert "subscribe" in await cleo.call("subscribe", channel=f"thread:{thread}")

        await parts.store.threads.remove_member("default", thread, "bob")
        check = checking(parts, Slow(parts.store.threads, join))
        check.schedule()
        assert (await bob.push("unsubscribe"))["channel"] == f"thread:{thread}"
        left = parts.core.hub.subscribers(f"default/thread:{thread}")
        assert {one.identity.subject for one in left} == {"ada", "cleo"}  # type: ignore[attr-defined]  # connections


async def test_a_doubt_while_a_check_runs_is_no_second_check(tmp_path: Path) -> None:
    """It makes the running check repeat: two at once would query the store twice for each thread."""
    async with gateway(tmp_path, direct_membership=("*",)) as running:
        ada, bob = await client(running, "ada"), await client(running, "bob")
        await shared_thread(ada, bob)
        parts = running.gateway.parts
        assert parts is not None
        began, may, at_once = asyncio.Event(), asyncio.Event(), 0

        async def meanwhile() -> None:
            nonlocal at_once
            at_once += 1
            began.set()
            await may.wait()

        threads = Slow(parts.store.threads, meanwhile)
        check = checking(parts, threads)
        check.schedule()
        async with asyncio.timeout(within(5)):
            await began.wait()
        check.schedule()
        check.schedule()
        for _ in range(20):
            await asyncio.sleep(0)
        assert at_once == 1
        may.set()
        async with asyncio.timeout(within(5)):
            while check._checking:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        assert at_once == 2
