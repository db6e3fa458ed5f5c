"""Staging 6: broken connections and recovery."""

from __future__ import annotations

import asyncio

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import ScenarioClient, verify_run
from narthex.e2e.system_under_test import SystemUnderTest


async def again(system: SystemUnderTest, before: ScenarioClient, thread: str) -> ScenarioClient:
    """A new connection that continues from the last position of `before`."""
    after = await system.device()
    await after.continue_from(before, thread)
    return after


@scenario(Category.E2E)
async def a_dropped_line_resumes_without_a_gap(system: SystemUnderTest) -> None:
    """After a cut in mid-run and a return from the last offset, every event is there once and the digest is right."""
    async with system.client() as first, system.client() as stays:
        thread = await first.thread()
        await stays.follow(thread, offset=0)
        run = await first.begin("count to 200", thread, 10)
        first.drop()
        await first.ended()
        seen = len(first.run_events(thread, run))
        await stays.until(
            lambda: len(stays.run_events(thread, run)) > seen + 5, "the events that the first device misses"
        )
        second = await again(system, first, thread)
        await second.whole(thread, run)


@scenario(Category.E2E)
async def five_drops_in_one_run(system: SystemUnderTest) -> None:
    """The connection is cut five times during a run, and the events are still complete."""
    async with system.client() as first, system.client() as stays:
        thread = await first.thread()
        await stays.follow(thread, offset=0)
        run = await first.start("count to 600", thread)
        device = first
        for number in range(5):
            seen = len(device.run_events(thread, run))
            await device.until(
                lambda d=device, s=seen: len(d.run_events(thread, run)) > s + 3,  # type: ignore[misc]  # per round
                f"more of the run before drop {number + 1}",
            )
            device.drop()
            await device.ended()
            missed = device.positions[f"thread:{thread}"][0] + 3
            await stays.until(
                lambda m=missed: stays.positions[f"thread:{thread}"][0] > m,  # type: ignore[misc]  # per round
                "the events that the device misses",
            )
            assert stays.terminal(thread, run) is None, f"the run had ended at drop {number + 1}"
            device = await again(system, device, thread)
        await device.whole(thread, run, 40)


@scenario(Category.E2E)
async def disconnect_is_not_cancel(system: SystemUnderTest) -> None:
    """The run continues and finishes while no client is connected; a client that comes back reads all of it."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.begin("count to 100", thread, 3)
    async with system.client() as back:
        for _ in range(200):
            if (await back.rpc("run.get", run_id=run))["state"] == "finished":
                break
            await asyncio.sleep(0.1)
        await back.follow(thread, offset=0)
        events = back.run_events(thread, run)
        verify_run(events)
        assert events[-1]["type"] == "RUN_FINISHED"


@scenario(Category.E2E)
async def a_foreign_position_is_not_recovered_in_part(system: SystemUnderTest) -> None:
    """A position of another epoch gives `recovered: false` and no publications: never a silent gap."""
    async with system.client() as ada:
        thread = await ada.thread()
        await ada.ask("echo something", thread)
        async with system.client() as other:
            result = await other.follow(thread, offset=2, epoch="not-this-epoch")
            assert not result.get("recovered", False), "a position of another epoch was recovered"
            assert result.get("publications", []) == []


@scenario(Category.E2E)
async def a_bad_frame_ends_only_its_own_line(system: SystemUnderTest) -> None:
    """A malformed frame is answered with 3501 and a reason; the user's other device is not affected."""
    async with system.client() as good, system.client() as bad:
        await bad.raw("{ this is not JSON")
        assert await bad.ended() == 3501
        assert bad.close_reason
        assert await good.rpc("echo", n=1) == {"n": 1}


@scenario(Category.E2E)
async def notices_are_recovered_too(system: SystemUnderTest) -> None:
    """Notices on the user's channel during a device's absence come with its next connect."""
    async with system.client() as away, system.client() as here:
        me = await away.rpc("whoami")
        channel = f"user:{me['user']}"
        offset, epoch = away.positions[channel]
        away.drop()
        await away.ended()
        thread = await here.thread("while you were out")
        back = await system.upgrade(await system.headers())
        await back.connect(subs={channel: {"recover": True, "offset": offset, "epoch": epoch}})
        created = [n for n in back.notices if n["name"] == "narthex.thread_created"]
        assert thread in [n["value"]["threadId"] for n in created]
        await back.close()
