"""Bad input gets a clear error and does not affect other clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import psutil
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from tests.acceptance.program import Program, running
from tests.acceptance.sdk import person
from tests.timing import within

pytestmark = pytest.mark.acceptance


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Program]:
    async with running(tmp_path) as program:
        yield program


async def opened(program: Program, token: str) -> ClientConnection:
    """A raw connection that has completed `connect`."""
    raw = await connect(
        program.ws, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None, max_size=None
    )
    await raw.send('{"id":1,"connect":{}}')
    assert json.loads(await raw.recv())["connect"]["client"]
    return raw


async def test_each_kind_of_bad_frame_is_named_and_nobody_else_notices(gateway: Program) -> None:
    """Malformed JSON, deep nesting, wrong types, binary, 10 MB: the close code and the reason name the fault."""
    token = gateway.token("mallory")
    cases: list[tuple[str | bytes, int, str]] = [
        ("{", 3501, "JSON"),
        ("[" * 60_000, 3501, "deeper"),
        ('{"id":"one","rpc":{}}', 3501, "not a command"),
        ('{"id":2,"connect":{}}', 3501, "connect"),
        ('{"rpc":{"method":"echo"}}', 3501, "id"),
        (b"\x00\x01", 3506, "text"),
        ("x" * 10_000_000, 1009, ""),
    ]
    async with person(gateway.ws, gateway.token("ada")) as ada:
        for frame, code, says in cases:
            raw = await opened(gateway, token)
            with pytest.raises(ConnectionClosed):
                await raw.send(frame)
                while True:
                    await asyncio.wait_for(raw.recv(), 10)
            assert raw.close_code == code, (frame[:20], raw.close_code, raw.close_reason)
            assert says in str(raw.close_reason)
            assert (await ada.rpc("echo", n=1)) == {"n": 1}
        assert ada.connected == 1


async def test_a_first_frame_that_is_none_points_to_the_protocol(gateway: Program) -> None:
    """A hand-written client starts with `hello`: the reason points to docs/protocol.md."""
    headers = {"Authorization": f"Bearer {gateway.token('mallory')}"}
    for frame in ("hello", '{"hello":1}', '{"id":1}'):
        raw = await connect(gateway.ws, additional_headers=headers, proxy=None)
        with pytest.raises(ConnectionClosed):
            await raw.send(frame)
            await asyncio.wait_for(raw.recv(), within(10))
        assert raw.close_code == 3501
        assert str(raw.close_reason).endswith("; see docs/protocol.md"), raw.close_reason


async def test_unknown_methods_and_wrong_params_are_answered(gateway: Program) -> None:
    """The connection stays open."""
    raw = await opened(gateway, gateway.token("ada"))
    for command, code in [
        ('{"id":2,"rpc":{"method":"no.such"}}', 104),
        ('{"id":3,"rpc":{"method":"run.start","data":{"text":5}}}', 400),
        ('{"id":4,"rpc":{"method":"run.start","data":{}}}', 400),
        ('{"id":5,"rpc":{"method":"thread.get","data":{"thread_id":"nobody-s"}}}', 404),
        ('{"id":6,"subscribe":{"channel":"thread:nobody-s"}}', 103),
        ('{"id":7,"subscribe":{"channel":"user:bob"}}', 103),
        ('{"id":8,"subscribe":{"channel":"secret"}}', 102),
        ('{"id":9,"publish":{"channel":"user:ada","data":{}}}', 103),
        ('{"id":10,"history":{"channel":"thread:nobody-s"}}', 103),
        (
            '{"id":11,"rpc":{"method":"run.start","data":{"text":"hi","client_message_id":"m","agent":"none"}}}',
            404,
        ),
    ]:
        await raw.send(command)
        answer = json.loads(await raw.recv())
        assert answer["id"] == json.loads(command)["id"]
        assert answer["error"]["code"] == code, answer
    await raw.close()


async def test_a_forged_token_is_refused_before_the_upgrade(gateway: Program) -> None:
    """401 with problem+json and WWW-Authenticate; no part of the token appears anywhere."""
    good = gateway.token("ada")
    forged = good[:-6] + ("AAAAAA" if not good.endswith("AAAAAA") else "BBBBBB")
    with pytest.raises(InvalidStatus) as caught:
        await connect(gateway.ws, additional_headers={"Authorization": f"Bearer {forged}"}, proxy=None)
    response = caught.value.response
    assert response.status_code == 401
    problem = json.loads(response.body or b"")
    assert problem["code"] == "token_invalid"
    assert {"type", "title", "status", "code", "detail", "remedy", "trace_id", "carriers_checked"} <= set(
        problem
    )
    assert "invalid_token" in response.headers["www-authenticate"]
    assert forged not in (response.body or b"").decode()
    assert forged[:20] not in gateway.log


async def test_browsers_hear_the_reason_when_they_offer_to(gateway: Program) -> None:
    """With `narthex.explain` the refusal is an upgrade followed at once by a close with code and reason."""
    for offered in (["narthex.explain"], ["jwt-auth", "jwt.broken", "narthex.explain"]):
        refused = await connect(
            gateway.ws + "?token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
            subprotocols=[Subprotocol(name) for name in offered],
            proxy=None,
        )
        with pytest.raises(ConnectionClosed):
            await refused.recv()
        assert refused.close_code in (3500, 3501)
        assert ":" in str(refused.close_reason)
        assert refused.subprotocol == "narthex.explain"


async def test_a_flood_of_commands_is_throttled_and_memory_stays(gateway: Program) -> None:
    """3013 after two bursts; the process does not grow."""
    assert gateway.process is not None
    before = psutil.Process(gateway.process.pid).memory_info().rss
    raw = await opened(gateway, gateway.token("mallory"))
    with pytest.raises(ConnectionClosed):
        for number in range(2, 5_000):
            await raw.send(f'{{"id":{number},"rpc":{{"method":"echo"}}}}')
        while True:
            await asyncio.wait_for(raw.recv(), 10)
    assert raw.close_code == 3013
    assert psutil.Process(gateway.process.pid).memory_info().rss - before < 8 * 1024 * 1024


@pytest.mark.parametrize("limit", [4_096, 200_000])
async def test_the_message_limit_is_the_same_on_every_transport(tmp_path: Path, limit: int) -> None:
    """NARTHEX_MAX_MESSAGE_BYTES: a message of that size is answered over HTTP streaming too; one more byte is
    refused.
    """
    env = {"NARTHEX_MAX_MESSAGE_BYTES": str(limit)}
    async with running(tmp_path, env) as program, httpx2.AsyncClient(trust_env=False) as http:
        headers = {"Authorization": f"Bearer {await program.login('ada@example.org')}"}
        stream = f"{program.http}/connection/http_stream"
        large = json.dumps({"id": 1, "connect": {"name": "x" * limit}}).encode()
        refused = await http.post(stream, content=large, headers=headers)
        assert (refused.status_code, refused.json()["detail"]) == (
            400,
            f"A message may have at most {limit} bytes.",
        )
        if limit == 4_096:  # a URL is limited by the size of the request head
            sse = await http.get(f"{program.http}/connection/sse", params={"cf_connect": large.decode()})
            assert (sse.status_code, sse.json()["detail"]) == (
                400,
                f"A message may have at most {limit} bytes.",
            )
        async with http.stream("POST", stream, content=b'{"id":1,"connect":{}}', headers=headers) as answer:
            lines = answer.aiter_lines()
            connect = json.loads(await anext(lines))["connect"]
            frame = '{"id":2,"rpc":{"method":"echo","data":{"x":"é\\""}}}'  # both grow when encoded as JSON strings
            frame = frame.replace("é", "é" * ((limit - len(frame.encode()) + 2) // 2 - 1), 1)
            frame += " " * (limit - len(frame.encode()))
            for more, status in (("", 204), (" ", 400)):
                body = {"session": connect["session"], "node": connect["node"], "data": frame + more}
                posted = await http.post(f"{program.http}/emulation", content=json.dumps(body))
                assert posted.status_code == status, posted.text
            assert json.loads(await anext(lines))["rpc"]["data"] == json.loads(frame)["rpc"]["data"]
