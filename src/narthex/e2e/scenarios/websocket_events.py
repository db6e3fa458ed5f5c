"""Staging 1: the messages that a client receives around one run."""

from __future__ import annotations

import asyncio

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import text_of, types_of, verify_run
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.E2E, incident=True)
async def event_flow(system: SystemUnderTest) -> None:
    """Every event of a run arrives, once and in order, from RUN_STARTED to RUN_FINISHED, and the digest proves it."""
    async with system.client() as ada:
        events = await ada.ask("echo event flow")
        assert events[0]["type"] == "RUN_STARTED"
        assert events[-1]["type"] == "RUN_FINISHED"
        assert "event flow" in text_of(events)
        assert {"TOOL_CALL_START", "TOOL_CALL_RESULT", "TEXT_MESSAGE_CONTENT"} <= {e["type"] for e in events}


@scenario(Category.E2E, incident=True)
async def seven_concurrent_sockets(system: SystemUnderTest) -> None:
    """Seven sockets of one user all get the same whole run."""
    people = [await system.device() for _ in range(7)]
    thread = await people[0].thread()
    for device in people[1:]:
        await device.follow(thread, offset=0)
    run = await people[3].start("count to 40", thread)
    runs = await asyncio.gather(*(device.whole(thread, run) for device in people))
    assert all(events == runs[0] for events in runs), "two sockets saw different runs"


@scenario(Category.E2E)
async def connect_reply_says_who_and_how_long(system: SystemUnderTest) -> None:
    """The connect reply names the client, the ttl and the user's own channel with its position."""
    async with system.client() as ada:
        reply = ada.connected
        assert reply["client"]
        assert reply["ping"] > 0
        me = await ada.rpc("whoami")
        assert f"user:{me['user']}" in reply["subs"]
        assert reply["subs"][f"user:{me['user']}"]["epoch"]


@scenario(Category.E2E)
async def two_sockets_have_two_client_ids(system: SystemUnderTest) -> None:
    """A client id is made once per connection and no other connection has it."""
    async with system.client() as one, system.client() as two:
        assert one.connected["client"] != two.connected["client"]
        assert (await one.rpc("whoami"))["client"] == one.connected["client"]


@scenario(Category.E2E)
async def notices_reach_the_users_own_channel(system: SystemUnderTest) -> None:
    """A second device that follows no thread still gets the notices that one was created and that a run began."""
    async with system.client() as one, system.client() as two:
        thread = await one.thread("notice me")
        run = await one.start("hello", thread)
        await two.until(
            lambda: {"narthex.thread_created", "narthex.run_began"} <= {n["name"] for n in two.notices},
            "both notices",
        )
        began = next(n for n in two.notices if n["name"] == "narthex.run_began")
        assert began["value"] == began["value"] | {"threadId": thread, "runId": run}


@scenario(Category.E2E)
async def each_event_is_published_once(system: SystemUnderTest) -> None:
    """The channel's own history holds each event of a run exactly once."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.start("echo once", thread)
        seen = await ada.whole(thread, run)
        page = await ada.command("history", channel=f"thread:{thread}", limit=-1)
        kept = [p["data"] for p in page["publications"] if p["data"].get("runId") == run]
        verify_run(kept)
        assert types_of(kept) == types_of(seen)
