"""Integration: the parts as one system: gateways, broker, store, issuer, HTTP beside WebSocket."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import ScenarioClient, fault_of, text_of
from narthex.e2e.skipping import SkipScenario
from narthex.e2e.system_under_test import SystemUnderTest

CROWD: Final = 12
"""Enough connections to show in a count that other scenarios change too."""
COUNTED_S: Final = 10.0
"""Health is cached for 2 s on each gateway."""


@scenario(Category.INTEGRATION)
async def two_gateways_are_one_system(system: SystemUnderTest) -> None:
    """A run that starts on one gateway is followed live on the other and cancelled from there."""
    if len(system.gateways) < 2:
        raise SkipScenario("two gateways are not reachable one by one")
    here, there = (gateway.ws_url for gateway in system.gateways[:2])
    async with system.client(url=here) as one, system.client(url=there) as two:
        nodes = {(await one.rpc("whoami"))["node"], (await two.rpc("whoami"))["node"]}
        assert len(nodes) == 2, f"both URLs reach {nodes}"
        thread = await one.thread()
        await two.follow(thread, offset=0)
        run = await one.start("count to 2000", thread)
        await two.until(lambda: len(two.run_events(thread, run)) > 5, "the run on the other gateway")
        await two.rpc("run.cancel", run_id=run)
        seen = await two.whole(thread, run)
        assert seen[-1]["outcome"]["type"] == "cancelled"
        assert seen == await one.whole(thread, run)


@scenario(Category.INTEGRATION)
async def http_and_socket_tell_the_same(system: SystemUnderTest) -> None:
    """The server API returns the same thread and run as the RPCs."""
    async with system.client() as ada:
        thread = await ada.thread("both ways")
        run = await ada.start("echo both ways", thread)
        events = await ada.whole(thread, run)
        await ada.view(thread)
        headers = await system.headers()
        told = (await system.get(f"/api/v1/runs/{run}", headers=headers)).json()
        assert told["digest"] == events[-1]["digest"]
        assert told["text"] == text_of(events)
        over_http = (await system.get(f"/api/v1/threads/{thread}", headers=headers)).json()
        over_socket = await ada.rpc("thread.get", thread_id=thread)
        assert over_http["messages"] == over_socket["messages"]


@scenario(Category.INTEGRATION)
async def people_of_an_issuer_and_test_identities_never_meet(system: SystemUnderTest) -> None:
    """A real issuer's user of another tenant and a test identity cannot see each other's thread."""
    if not system.issuer_url:
        raise SkipScenario("no issuer is available for a user of another tenant")
    outsider = await system.upgrade(await system.issuer_user("citizen"))
    await outsider.connect()
    me = await outsider.rpc("whoami")
    assert me["tenant"] != "e2e", "a user of the issuer is in the tests' tenant"
    assert me["e2e"] is False
    theirs = await outsider.thread("private")
    async with system.client() as ada:
        ours = await ada.thread("ours")
        await _kept_out(ada, theirs)
        await _kept_out(outsider, ours)
        await ada.ask("echo only for us", ours)
        assert "only for us" not in str(outsider.seen)
    await outsider.rpc("thread.delete", thread_id=theirs)
    await outsider.close()


async def _kept_out(client: ScenarioClient, thread: str) -> None:
    """Check that the client can neither read nor follow the thread, nor write in it, nor join it."""
    attempts: tuple[Callable[[], Awaitable[Any]], ...] = (
        lambda: client.rpc("thread.get", thread_id=thread),
        lambda: client.follow(thread),
        lambda: client.start("hello", thread),
        lambda: client.rpc("thread.members.add", thread_id=thread, user_id="another-user"),
    )
    for attempt in attempts:
        fault = await fault_of(attempt(), "a thread was reached across tenants")
        assert fault.code in (102, 103, 404), f"{fault}"


@scenario(Category.INTEGRATION, alone=True)
async def the_numbers_move(system: SystemUnderTest) -> None:
    """Health of some gateway counts connections that open and end."""

    async def counted() -> int:
        return int((await system.get("/ws/health")).json()["metrics"]["websocket"]["active_connections"])

    before = min([await counted() for _ in range(4)])
    async with system.client() as ada, contextlib.AsyncExitStack() as crowd:
        for _ in range(CROWD):
            await crowd.enter_async_context(system.client())

        async def more() -> bool:
            return await counted() >= before + CROWD // 2

        await ada.eventually(more, f"{CROWD} new connections in active_connections", COUNTED_S)
        await crowd.aclose()

        async def fewer() -> bool:
            return await counted() < before + CROWD // 2

        await ada.eventually(fewer, f"the end of {CROWD} connections in active_connections", COUNTED_S)


@scenario(Category.INTEGRATION)
async def the_api_describes_itself(system: SystemUnderTest) -> None:
    """OpenAPI names the paths that the suite uses."""
    body = (await system.get("/api/v1/openapi.json")).json()
    assert {"/api/v1/e2e/results", "/api/v1/threads/{thread_id}"} <= set(body["paths"])
