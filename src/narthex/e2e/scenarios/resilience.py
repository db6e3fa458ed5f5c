"""Resilience: mass reconnects, connections that die silently, gateways that are killed."""

from __future__ import annotations

import asyncio

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenarios.startup_resilience import let_in
from narthex.e2e.system_under_test import SystemUnderTest

CROWD = 40
OWNER_LOST_S = 15.0  # docs/design.md#runs
SLACK_S = 10.0


@scenario(Category.RESILIENCE, alone=True)
async def a_crowd_comes_back_at_once(system: SystemUnderTest) -> None:
    """Forty devices drop in mid-run and return together: each recovers the whole run."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.begin("count to 200", thread, 3)
        for client in [await system.device() for _ in range(CROWD)]:
            client.drop()
        back = await asyncio.gather(*(system.device() for _ in range(CROWD)))
        for client in back:
            await client.continue_from(ada, thread)
        whole = await asyncio.gather(*(client.whole(thread, run, 40) for client in back))
        assert all(events[-1] == whole[0][-1] for events in whole)


@scenario(Category.RESILIENCE)
async def ten_runs_through_a_drop_each(system: SystemUnderTest) -> None:
    """Ten runs at once, each with a cut and resumed connection, all complete."""

    async def one(number: int) -> None:
        async with system.client() as first:
            thread = await first.thread(f"drop {number}")
            run = await first.start("count to 80", thread)
            await first.until(lambda: len(first.run_events(thread, run)) > 2, "the run to begin", 40)
            first.drop()
            await first.ended()
            async with system.client() as second:
                await second.continue_from(first, thread)
                await second.whole(thread, run, 40)

    await asyncio.gather(*(one(number) for number in range(5)))
    await asyncio.gather(*(one(number) for number in range(5, 10)))


@scenario(Category.RESILIENCE)
async def a_flood_of_commands_is_bounded(system: SystemUnderTest) -> None:
    """A thousand commands at once are answered or refused with a code; another user's connection is not affected."""
    async with system.client() as quiet, system.client() as loud:
        await loud.raw("\n".join(f'{{"id":{n},"rpc":{{"method":"time"}}}}' for n in range(10, 1010)))
        assert await quiet.rpc("echo", n=1) == {"n": 1}
        await loud.until(
            lambda: (
                bool(loud.close_code)
                or 1009 in loud.replies
                or any(reply.error for reply in loud.replies.values())
            ),
            "an answer to the flood",
        )
        assert loud.close_code in (0, 3013, 3501), f"closed with {loud.close_code} {loud.close_reason}"
        assert loud.close_code or any(reply.error for reply in loud.replies.values()), (
            "a thousand commands did not reach a limit"
        )


@scenario(Category.RESILIENCE, timeout_s=120, alone=True)
async def an_idle_device_comes_back_after_kill_9(system: SystemUnderTest) -> None:
    """Its gateway is killed; it finds its thread through the other gateway, and both gateways serve in the end."""
    gateways = system.need_gateways()
    async with system.client(url=gateways[1].ws_url) as ada:
        thread = await ada.thread("idle")
        await ada.ask("echo before", thread)
        system.kill(gateways[1])
        try:
            assert await ada.ended() == 1006, f"closed with {ada.close_code}"
            back = await let_in(system)
            offset, epoch = ada.positions[f"thread:{thread}"]
            assert (await back.follow(thread, offset=offset, epoch=epoch))["recovered"]
            await back.close()
        finally:
            await gateways[1].again()
    async with system.client(url=gateways[1].ws_url):
        pass


@scenario(Category.RESILIENCE, timeout_s=120, alone=True)
async def an_orphaned_run_ends_by_name(system: SystemUnderTest) -> None:
    """A run whose gateway is killed and stays away ends with RUN_ERROR owner_lost within 15 s, on the other gateway."""
    gateways = system.need_gateways()
    here, there = (gateway.ws_url for gateway in gateways[:2])
    async with system.client(url=here) as one, system.client(url=there) as two:
        thread = await two.thread("orphan")
        await one.follow(thread, offset=0)
        run = await one.start("count to 3000", thread)
        await two.until(lambda: len(two.run_events(thread, run)) > 5, "the run to begin")
        system.kill(gateways[0])
        try:
            last = (await two.whole(thread, run, OWNER_LOST_S + SLACK_S))[-1]
            assert last["type"] == "RUN_ERROR", f"the run ended with {last['type']}"
            assert last["code"] == "owner_lost", f"the run ended with {last['code']}"
        finally:
            await gateways[0].again()
