"""WebSocket: the upgrade and the frames, through any proxy in front."""

from __future__ import annotations

import asyncio
import json

from narthex.domain import endpoints
from narthex.e2e.scenario import Category, scenario
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.WEBSOCKET)
async def every_alias_is_the_same_door(system: SystemUnderTest) -> None:
    """/ws, /websocket and /connection/websocket admit alike."""
    for path in endpoints.WEBSOCKETS:
        url = system.ws_url.removesuffix(endpoints.WEBSOCKET) + path
        async with system.client(url=url) as ada:
            assert await ada.rpc("echo", path=path) == {"path": path}


@scenario(Category.WEBSOCKET)
async def a_plain_get_is_told_to_upgrade(system: SystemUnderTest) -> None:
    """A plain GET gets 426 with problem+json, not a bare error."""
    answer = await system.get("/ws", headers=await system.headers())
    assert answer.status_code == 426, f"a plain GET is answered with {answer.status_code}, not 426"
    assert answer.json()["code"] == "upgrade_required"


@scenario(Category.WEBSOCKET)
async def a_wrong_path_is_named(system: SystemUnderTest) -> None:
    """A wrong path gets 404 no_route: it does not look like a wrong credential."""
    refused = await system.refused("an unknown path was upgraded", await system.headers(), to="/nowhere")
    assert refused.status == 404, f"refused with {refused.status}"
    assert refused.problem["code"] == "no_route"


@scenario(Category.WEBSOCKET)
async def the_token_is_never_echoed(system: SystemUnderTest) -> None:
    """`jwt-auth, jwt.<token>` selects `jwt-auth`, and the connection works."""
    token = await system.token()
    client = await system.upgrade(subprotocols=["jwt-auth", f"jwt.{token}"])
    assert client.socket.subprotocol == "jwt-auth"
    await client.connect()
    assert await client.rpc("echo", n=1) == {"n": 1}
    await client.close()


@scenario(Category.WEBSOCKET)
async def commands_share_a_frame(system: SystemUnderTest) -> None:
    """Twenty commands joined by newlines get twenty replies with their ids, in order."""
    async with system.client() as ada:
        numbers = range(1000, 1020)
        await ada.raw(
            "\n".join(
                json.dumps({"id": number, "rpc": {"method": "echo", "data": {"n": number}}})
                for number in numbers
            )
        )
        await ada.until(lambda: ada.replies.keys() >= set(numbers), "twenty replies")
        found = [reply.result["data"]["n"] for number, reply in ada.replies.items() if number in numbers]
        assert found == list(numbers), f"replies came as {found}"


@scenario(Category.WEBSOCKET)
async def fragments_are_put_together(system: SystemUnderTest) -> None:
    """A command in five fragments is one command, and a ping between them is answered."""
    async with system.client() as ada:
        text = json.dumps({"id": 2000, "rpc": {"method": "echo", "data": {"long": "x" * 500}}})
        pieces = [text[place : place + 120] for place in range(0, len(text), 120)]
        await ada.socket.send(pieces)
        pong = await ada.socket.ping()
        async with asyncio.timeout(10):
            await pong
        await ada.until(lambda: 2000 in ada.replies, "the reply to a fragmented command")
        reply = ada.replies[2000]
        assert reply.result.get("data") == {"long": "x" * 500}, f"the fragments gave {str(reply)[:200]}"


@scenario(Category.WEBSOCKET)
async def too_large_is_closed_by_name(system: SystemUnderTest) -> None:
    """A message over the advertised limit closes the connection with 1009, and only that connection."""
    limit = (await system.get("/ws/config")).json()["limits"]["max_message_bytes"]
    async with system.client() as ada, system.client() as other:
        await ada.raw(json.dumps({"id": 3000, "rpc": {"method": "echo", "data": {"x": "y" * (limit + 1)}}}))
        assert await ada.ended() == 1009, f"closed with {ada.close_code} {ada.close_reason}"
        assert await other.rpc("echo", n=1) == {"n": 1}


@scenario(Category.WEBSOCKET)
async def nothing_before_connect(system: SystemUnderTest) -> None:
    """A command before `connect` closes the connection with 3501 and a reason, also for a client with a good token."""
    client = await system.upgrade(await system.headers())
    await client.raw('{"id":1,"rpc":{"method":"whoami"}}')
    assert await client.ended() == 3501, f"closed with {client.close_code} {client.close_reason}"
    assert client.close_reason


@scenario(Category.WEBSOCKET)
async def a_clean_goodbye(system: SystemUnderTest) -> None:
    """A close from the client is answered with its own code."""
    client = await system.device()
    await client.close()
    assert client.close_code == 1000, f"closed with {client.close_code}"


@scenario(Category.WEBSOCKET, timeout_s=90)
async def pings_keep_an_idle_line(system: SystemUnderTest) -> None:
    """An idle connection is pinged at the announced interval and stays open."""
    async with system.client() as ada:
        interval = ada.connected["ping"]
        await ada.until(lambda: ada.session.pings > 0, "a ping", interval * 1.5 + 5)
        assert await ada.rpc("echo", still=1) == {"still": 1}
