"""Staging 9: several users, several tenants, several ways to connect."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import HandshakeRefused, RpcFault, ScenarioClient, fault_of, text_of
from narthex.e2e.system_under_test import KEY_HEADER, SystemUnderTest


@scenario(Category.E2E)
async def two_people_share_a_thread(system: SystemUnderTest) -> None:
    """An added member gets a notice, sees everything and may write."""
    async with system.client() as ada, system.client("bob") as bob:
        thread = await ada.thread("shared")
        him = (await bob.rpc("whoami"))["user"]
        await ada.rpc("thread.members.add", thread_id=thread, user_id=him)
        await bob.until(
            lambda: any(n["name"] == "narthex.thread_added" for n in bob.notices), "the invitation"
        )
        await bob.follow(thread, offset=0)
        run = await bob.start("echo from bob", thread)
        assert await ada.whole(thread, run) == await bob.whole(thread, run)


@scenario(Category.E2E)
async def a_stranger_sees_nothing(system: SystemUnderTest) -> None:
    """Another user of the same tenant can neither subscribe nor read nor start nor cancel."""
    async with system.client() as ada, system.client("eve") as eve:
        thread = await ada.thread("private")
        run = await ada.start("count to 50", thread)
        attempts: tuple[Callable[[], Awaitable[Any]], ...] = (
            lambda: eve.follow(thread),
            lambda: eve.rpc("thread.get", thread_id=thread),
            lambda: eve.start("hello", thread),
            lambda: eve.rpc("run.get", run_id=run),
            lambda: eve.rpc("run.cancel", run_id=run),
            lambda: eve.rpc("thread.members.add", thread_id=thread, user_id="eve"),
        )
        for attempt in attempts:
            fault = await fault_of(attempt(), "a user who is not a member got access")
            assert fault.code in (103, 404), fault
        assert (await ada.whole(thread, run))[-1]["outcome"]["type"] == "success"
        assert f"thread:{thread}" not in eve.events


@scenario(Category.E2E)
async def a_removed_member_loses_the_channel_at_once(system: SystemUnderTest) -> None:
    """The member's subscription ends with a push, and no later message reaches the member."""
    async with system.client() as ada, system.client("bob") as bob:
        thread = await ada.thread("leaving")
        him = (await bob.rpc("whoami"))["user"]
        await ada.rpc("thread.members.add", thread_id=thread, user_id=him)
        await bob.follow(thread)
        await ada.rpc("thread.members.remove", thread_id=thread, user_id=him)
        await bob.until(
            lambda: any(push.unsubscribe is not None for push in bob.pushes), "the unsubscription"
        )
        await ada.ask("echo between us", thread)
        # Anything that a gateway still sends to bob comes before the end of a run of his own that began later.
        await bob.ask("echo on my own")
        assert "between us" not in str(bob.events), (
            "a removed member received a message sent after the removal"
        )
        for attempt in (lambda: bob.follow(thread), lambda: bob.rpc("thread.get", thread_id=thread)):
            fault = await fault_of(attempt(), "a removed member had access after the removal")
            assert fault.code in (102, 103, 404), fault


@scenario(Category.E2E)
async def foreign_tenants_are_as_absent_as_nothing(system: SystemUnderTest) -> None:
    """Threads, runs and channels of others are refused with the same answer as ones that do not exist."""
    async with system.client() as ada:
        own = await ada.thread()
        assert (await ada.rpc("thread.get", thread_id=own))["thread"]["thread_id"] == own
        for asked in ("thread:default", "user:admin", "thread:../default/x"):
            kind = asked.partition(":")[0]
            foreign = await _refusal(ada, asked)
            nothing = await _refusal(ada, f"{kind}:nothing-of-this-name")
            assert foreign == nothing, (
                f"the refusal of {asked} differs from that of an absent one: {foreign}, {nothing}"
            )


async def _refusal(client: ScenarioClient, channel: str) -> tuple[int, str]:
    """The refusal of a subscription. Raises AssertionError when it succeeds."""
    try:
        await client.command("subscribe", channel=channel)
    except RpcFault as fault:
        assert fault.code in (102, 103), f"{channel}: {fault}"
        return fault.code, fault.message
    raise AssertionError(f"subscribed to {channel}")


@scenario(Category.E2E)
async def the_key_itself_is_a_way_in(system: SystemUnderTest) -> None:
    """The key header makes the same confined identity as the exchange; its test run names its threads."""
    headers = {KEY_HEADER: system.need_key(), "X-E2E-Test-Run": f"{system.test_run}-header"}
    client = await system.upgrade(headers)
    await client.connect()
    me = await client.rpc("whoami")
    assert me["tenant"] == "e2e"
    assert me["e2e"] is True
    assert me["test_run"] == f"{system.test_run}-header"
    assert (await client.ask("echo by key"))[-1]["type"] == "RUN_FINISHED"
    await client.close()


@scenario(Category.E2E)
async def without_proof_there_is_nothing(system: SystemUnderTest) -> None:
    """Without a token: refused, or upgraded inert and closed at the first connect. No data either way."""
    try:
        bare = await system.upgrade()
    except HandshakeRefused as refused:
        assert refused.status == 401
        assert refused.problem["code"] == "auth_required"
        return
    await bare.raw('{"id":1,"connect":{}}')
    assert await bare.ended() == 3500
    assert bare.events == {}
    assert bare.notices == []


@scenario(Category.E2E)
async def twenty_people_at_once_get_their_own(system: SystemUnderTest) -> None:
    """Twenty identities chat at the same time; each sees exactly its own messages."""

    async def chat(number: int) -> None:
        async with system.client(f"p{number}") as client:
            events = await client.ask(f"echo mine-{number}-{system.test_run}")
            assert f"mine-{number}-" in text_of(events)
            everything = str(client.events) + str(client.notices)
            assert all(f"mine-{other}-" not in everything for other in range(20) if other != number)

    await asyncio.gather(*(chat(number) for number in range(20)))
