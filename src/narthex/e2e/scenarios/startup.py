"""Startup: the checks that a platform, a load balancer and a deploy make before they send traffic."""

from __future__ import annotations

import time

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.STARTUP)
async def alive_and_ready(system: SystemUnderTest) -> None:
    """`/livez` and `/readyz` are 200, for HEAD too."""
    for method in ("GET", "HEAD"):
        for path in ("/livez", "/readyz"):
            answer = await system.request(method, path)
            assert answer.status_code == 200, f"{method} {path}: {answer.status_code}"


@scenario(Category.STARTUP)
async def health_for_every_method_that_asks(system: SystemUnderTest) -> None:
    """GET and HEAD give 200, OPTIONS is allowed, and HEAD has no body."""
    assert (await system.get("/ws/health")).status_code == 200
    head = await system.request("HEAD", "/ws/health")
    assert head.status_code == 200
    assert head.content == b""
    assert (await system.request("OPTIONS", "/ws/health")).status_code in (200, 204)


@scenario(Category.STARTUP)
async def health_is_consistent_with_its_checks(system: SystemUnderTest) -> None:
    """A failing broker, store or handshake is never shown under `healthy`, and each check has a latency."""
    body = (await system.get("/ws/health")).json()
    worst = {check["status"] for check in body["checks"].values()}
    assert body["status"] != "healthy" or worst == {"healthy"}, f"healthy in spite of {body['checks']}"
    for name, check in body["checks"].items():
        assert check["latency_ms"] is None or check["latency_ms"] >= 0, f"{name}: {check}"
    assert (body["status"] == "healthy") == (body["errors"] == []), body["errors"]


@scenario(Category.STARTUP)
async def settings_are_announced(system: SystemUnderTest) -> None:
    """`/ws/config` holds a client's settings; its limits equal those in health and those of a connection."""
    config = (await system.get("/ws/config")).json()
    health = (await system.get("/ws/health")).json()["config"]
    # Health shows the limit of connections by plan, the configuration the one setting that overrides all plans.
    shared = set(config["limits"]) & set(health) - {"max_connections_per_user"}
    assert {"max_message_bytes", "commands_per_s", "ping_interval_s"} <= shared
    differing = {
        name: (config["limits"][name], health[name])
        for name in shared
        if config["limits"][name] != health[name]
    }
    assert not differing, f"limits differ between /ws/config and health: {differing}"
    async with system.client() as ada:
        assert ada.connected["ping"] == config["limits"]["ping_interval_s"], (
            "the ping interval is not the announced one"
        )
    assert config["paths"]["websocket"] == "/ws"
    assert health["heartbeat_interval"] > 0
    assert config["limits"]["max_message_bytes"] >= 1024


@scenario(Category.STARTUP)
async def a_handshake_takes_no_time(system: SystemUnderTest) -> None:
    """From SYN to the connect reply in under 2 s, five times: nothing is set up after the upgrade."""
    await system.token()
    for _ in range(5):
        began = time.monotonic()
        async with system.client():
            took = time.monotonic() - began
        assert took < 2, f"a connect took {took:.2f} s"
