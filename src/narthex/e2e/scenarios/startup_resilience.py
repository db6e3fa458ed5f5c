"""Staging 7: the system's reports about itself before, while and after a part of it restarts."""

from __future__ import annotations

import asyncio

import httpx2

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import HandshakeRefused, ScenarioClient
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.E2E)
async def health_made_a_handshake(system: SystemUnderTest) -> None:
    """Health agrees with its checks, and the handshake is one of them."""
    body = (await system.get("/ws/health")).json()
    assert body["status"] in ("healthy", "degraded")
    assert body["checks"]["handshake"]["status"] == "healthy"
    assert {"auth", "broker", "store", "agents"} <= set(body["checks"])
    assert body["service"] == "narthex"
    assert body["timestamp"]


@scenario(Category.E2E)
async def health_is_shaped_as_published(system: SystemUnderTest) -> None:
    """`config`, `e2e_testing`, `metrics` and `errors` are there with the published names."""
    body = (await system.get("/ws/health")).json()
    assert isinstance(body["config"]["pre_connection_auth_required"], bool)
    assert {"enabled", "variables", "auth_bypass_active"} <= set(body["e2e_testing"])
    assert "active_connections" in body["metrics"]["websocket"]
    assert isinstance(body["errors"], list)


@scenario(Category.E2E)
async def ready_and_alive(system: SystemUnderTest) -> None:
    """`/livez` and `/readyz` answer 200."""
    for path in ("/livez", "/readyz"):
        assert (await system.get(path)).status_code == 200


@scenario(Category.E2E)
async def the_first_frame_can_be_handled_at_once(system: SystemUnderTest) -> None:
    """Connect and two commands in the very first frame are all answered: nothing is set up after the upgrade."""
    client = await system.upgrade(await system.headers())
    await client.raw(
        '{"id":101,"connect":{}}\n{"id":102,"rpc":{"method":"time"}}\n{"id":103,"rpc":{"method":"echo","data":{}}}'
    )
    await client.until(lambda: {101, 102, 103} <= client.replies.keys(), "all three replies")
    errors = [reply.error for reply in client.replies.values() if reply.error is not None]
    assert not errors, f"a command of the first frame was answered with an error: {errors[0]}"
    await client.close()


@scenario(Category.E2E)
async def what_a_client_needs_is_told(system: SystemUnderTest) -> None:
    """`/ws/config` names paths, limits and plans; `/ws/beacon` is the constant."""
    body = (await system.get("/ws/config")).json()
    assert body["paths"]["websocket"] == "/ws"
    assert body["limits"]["max_message_bytes"] > 0
    assert {"free", "enterprise"} <= set(body["plans"])
    assert (await system.get("/ws/beacon")).json()["beacon"] == "narthex"


@scenario(Category.E2E, timeout_s=120, alone=True)
async def a_killed_gateway_loses_nothing(system: SystemUnderTest) -> None:
    """`kill -9` of a gateway in mid-run: a device comes back through the proxy, the run ends, nothing is missing."""
    gateways = system.need_gateways()
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.begin("count to 600", thread, 10)
        victim = gateways[0]
        system.kill(victim)
        try:
            back = await let_in(system)
            await back.continue_from(ada, thread)
            last = (await back.whole(thread, run, 60))[-1]
            assert last["type"] in ("RUN_FINISHED", "RUN_ERROR")
            if last["type"] == "RUN_ERROR":
                assert last["code"] == "owner_lost"
            await back.close()
        finally:
            await victim.again()


async def let_in(system: SystemUnderTest) -> ScenarioClient:
    """A new connection, made with the back-off of an SDK."""
    for _ in range(100):
        try:
            return await system.device()
        except (HandshakeRefused, OSError, AssertionError, httpx2.HTTPError):
            await asyncio.sleep(0.2)
    raise AssertionError("no gateway admitted the client within 20 s")
