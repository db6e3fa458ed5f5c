"""Limits at N and at N+1 on a real gateway: tickets, connections per user and address, guests, runs, lag."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from narthex.domain.plans import PLANS
from narthex.ports.agents import Agent, RunInput
from narthex.testing import gateway

pytestmark = pytest.mark.acceptance


async def patient(run: RunInput) -> AsyncIterator[str]:
    """An agent that works until it is cancelled."""
    yield "working"
    await asyncio.Event().wait()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def refused(url: str, **options: Any) -> dict[str, Any]:
    """The problem body of a refused handshake, with its status and headers."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, proxy=None, **options)
    response = caught.value.response
    body: dict[str, Any] = json.loads(response.body or b"{}")
    return body | {"headers": {name.lower(): value for name, value in response.headers.raw_items()}}


@contextlib.asynccontextmanager
async def sockets(url: str, count: int, **options: Any) -> AsyncIterator[list[ClientConnection]]:
    """Open this many sockets."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connect(url, proxy=None, **options)) for _ in range(count)]


async def test_a_ticket_used_a_hundred_times_at_once_admits_one(tmp_path: Path) -> None:
    """Single use is atomic."""
    async with gateway(tmp_path, agents=[Agent(name="a", function=patient)]) as running:
        async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
            ticket = (await http.post("/ws/ticket", headers=bearer(running.token("ada")))).json()["ticket"]

        async def use() -> str:
            try:
                async with connect(f"{running.ws}?ticket={ticket}", proxy=None, open_timeout=30) as socket:
                    await socket.send('{"id":1,"connect":{}}')
                    return "admitted" if "connect" in json.loads(await socket.recv()) else "odd"
            except InvalidStatus as fault:
                return str(json.loads(fault.response.body or b"")["code"])

        outcomes = await asyncio.gather(*(use() for _ in range(100)))
        assert sorted(set(outcomes)) == ["admitted", "ticket_invalid"]
        assert outcomes.count("admitted") == 1


@pytest.mark.parametrize("plan", ["free", "early"])
async def test_connections_of_a_user_by_plan(tmp_path: Path, plan: str) -> None:
    """N sockets are admitted, the next is `connection_limit` with Retry-After; closing one admits another."""
    async with gateway(tmp_path, agents=[Agent(name="a", function=patient)]) as running:
        headers = bearer(running.token("ada", plan=plan))
        async with sockets(running.ws, PLANS[plan].connections, additional_headers=headers) as opened:
            problem = await refused(running.ws, additional_headers=headers)
            assert problem["code"] == "connection_limit"
            assert problem["status"] == 429
            assert int(problem["headers"]["retry-after"]) >= 1
            async with connect(running.ws, additional_headers=bearer(running.token("bob")), proxy=None):
                pass
            await opened[0].close()
            async with connect(running.ws, additional_headers=headers, proxy=None):
                pass


async def test_connections_of_an_address_and_of_the_process(tmp_path: Path) -> None:
    """The limits apply to all users."""
    async with gateway(
        tmp_path, agents=[Agent(name="a", function=patient)], max_connections_per_address=4
    ) as running:
        people = [bearer(running.token(f"u{number}")) for number in range(5)]
        async with contextlib.AsyncExitStack() as stack:
            for headers in people[:4]:
                await stack.enter_async_context(connect(running.ws, additional_headers=headers, proxy=None))
            assert (await refused(running.ws, additional_headers=people[4]))["code"] == "connection_limit"


async def test_guests_come_from_allowed_origins_only_and_have_their_own_plan(tmp_path: Path) -> None:
    """`--allow-anonymous`: an allowed page is a guest; another page, or a client without Origin, is not."""
    options: dict[str, Any] = {"allow_anonymous": True, "agents": [Agent(name="a", function=patient)]}
    async with gateway(tmp_path, **options) as running:
        async with connect(running.ws, origin=running.http, proxy=None) as socket:  # type: ignore[arg-type]  # a plain str
            await socket.send('{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"limits"}}')
            said = str(await socket.recv()) + str(await socket.recv())
            assert '"plan":"guest"' in said
        problem = await refused(running.ws, origin="https://evil.example")
        assert (problem["status"], problem["code"]) == (403, "origin_not_allowed")
    async with (
        gateway(tmp_path / "second", agents=options["agents"]) as strict,
        connect(strict.ws, origin=strict.http, proxy=None) as socket,  # type: ignore[arg-type]  # as above
    ):
        await socket.send('{"id":1,"connect":{}}')
        with pytest.raises(Exception, match="3500"):
            await socket.recv()


async def test_concurrent_runs_by_plan(tmp_path: Path) -> None:
    """Two runs run on `free`; the third is queued, and starts when one is cancelled."""
    async with gateway(tmp_path, agents=[Agent(name="a", function=patient)]) as running:
        headers = bearer(running.token("ada"))
        async with connect(running.ws, additional_headers=headers, proxy=None) as socket:
            call = caller(socket)
            await call("connect", {})
            runs = [
                (
                    await call(
                        "rpc", {"method": "run.start", "data": {"text": "x", "client_message_id": f"m{n}"}}
                    )
                )["rpc"]["data"]
                for n in range(PLANS["free"].concurrent_runs + 1)
            ]

            async def state(run: dict[str, Any]) -> str:
                found = await call("rpc", {"method": "run.get", "data": {"run_id": run["run_id"]}})
                return str(found["rpc"]["data"]["state"])

            async def eventually(run: dict[str, Any], wanted: str) -> None:
                async with asyncio.timeout(20):
                    while await state(run) != wanted:  # noqa: ASYNC110 - asks the server
                        await asyncio.sleep(0.02)

            for run in runs[:-1]:
                await eventually(run, "running")
            assert await state(runs[-1]) == "queued"
            await call("rpc", {"method": "run.cancel", "data": {"run_id": runs[0]["run_id"]}})
            await eventually(runs[0], "cancelled")
            await eventually(runs[-1], "running")


def caller(socket: ClientConnection) -> Any:
    """A function that sends a command and returns its reply."""
    numbers = iter(range(1, 10_000))

    async def call(member: str, body: dict[str, Any]) -> dict[str, Any]:
        number = next(numbers)
        await socket.send(json.dumps({"id": number, member: body}))
        while True:
            for line in str(await asyncio.wait_for(socket.recv(), 20)).split("\n"):
                message: dict[str, Any] = json.loads(line)
                if message.get("id") == number:
                    return message

    return call


async def test_what_is_enforced_is_what_is_advertised(tmp_path: Path) -> None:
    """`/ws/config` reports the limits and plans of this gateway."""
    options: dict[str, Any] = {"max_message_bytes": 2048, "agents": [Agent(name="a", function=patient)]}
    async with gateway(tmp_path, **options) as running:
        async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
            body = (await http.get("/ws/config")).json()
        assert body["limits"]["max_message_bytes"] == 2048
        assert body["plans"]["mid"]["connections"] == PLANS["mid"].connections
        for size, code in ((2_000, 0), (2_100, 1009)):
            async with connect(
                running.ws, additional_headers=bearer(running.token("ada")), proxy=None
            ) as socket:
                call = caller(socket)
                await call("connect", {})
                padding = "x" * (size - 60)
                if code:
                    with pytest.raises(Exception, match=str(code)):
                        await call("rpc", {"method": "echo", "data": padding})
                else:
                    assert (await call("rpc", {"method": "echo", "data": padding}))["rpc"]["data"] == padding
