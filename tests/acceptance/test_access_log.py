"""The access log's record of a connection's end, by the gateway, a guard process and a Guard, with real clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from narthex.app.connection_record import fingerprint
from narthex.domain.identity import Identity
from tests.acceptance.program import Program
from tests.guard.cores import SECRET, token
from tests.timing import within

pytestmark = pytest.mark.acceptance

ADA = fingerprint(Identity(subject="ada", tenant="default"))
VANISH = "vanish"
LOGGED = ("--log-format", "json")


async def ends(program: Program, count: int) -> list[dict[str, Any]]:
    """The records of so many ends of Ada's connections, in order; health's own probes have others."""
    async with asyncio.timeout(within(10)):
        while True:
            lines = [json.loads(line) for line in program.log.splitlines() if line.startswith("{")]
            found = [line for line in lines if line["event"] == "connection_end" and line["user"] == ADA]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.02)


def of(record: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    """Some members of a record."""
    return tuple(record[name] for name in names)


async def echo(socket: ServerConnection) -> None:
    """Say each message again; drop the connection on `VANISH`."""
    try:
        async for message in socket:
            if message == VANISH:
                socket.transport.abort()
            await socket.send(message)
    except ConnectionClosed:
        pass


async def test_a_gateways_connections(tmp_path: Path) -> None:
    """A client's own closes, with a secret and with a text of the gateway's; an abort; a drain. The handshake's record
    has the same id.
    """
    program = Program(tmp_path, {}, ("--access-log", *LOGGED))
    try:
        await program.start()
        headers = {"Authorization": f"Bearer {program.token('ada')}"}
        async with connect(program.ws, additional_headers=headers, proxy=None) as socket:
            await socket.send('{"id":1,"connect":{}}')
            await socket.recv()
            await socket.close(4000, "my-secret-word")
        (first,) = await ends(program, 1)
        assert of(first, "code", "reason", "user", "transport") == (4000, "", ADA, "websocket")
        assert 100 < first["bytes_in"] < 3_000
        assert 100 < first["bytes_out"] < 3_000
        assert 0 < first["duration_s"] < within(30)
        async with connect(program.ws, additional_headers=headers, proxy=None) as socket:
            await socket.close(3500, "token_revoked: sign in again")
        claimed = (await ends(program, 2))[1]
        assert of(claimed, "code", "reason", "user") == (3500, "", ADA)
        aborted = await connect(program.ws, additional_headers=headers, proxy=None)
        aborted.transport.abort()
        await aborted.wait_closed()
        second = (await ends(program, 3))[2]
        assert of(second, "code", "reason", "user") == (1006, "", ADA)
        async with connect(program.ws, additional_headers=headers, proxy=None) as held:
            program.terminate()
            with pytest.raises(ConnectionClosed):
                await held.recv()
        third = (await ends(program, 4))[3]
        assert of(third, "code", "reason", "user") == (3001, "draining", ADA)
        lines = [json.loads(line) for line in program.log.splitlines() if line.startswith("{")]
        handshakes = {line["trace_id"] for line in lines if line["event"] == "handshake"}
        assert {one["trace_id"] for one in (first, second, third)} <= handshakes
        assert "my-secret-word" not in program.log
        assert headers["Authorization"].rpartition(".")[2] not in program.log
    finally:
        program.end()


async def test_a_guard_processs_connections(tmp_path: Path) -> None:
    """The bytes of the client's side; the reason of a revocation and of a lost upstream, and no other side's."""
    env = {"NARTHEX_JWT_SECRET": SECRET, "NARTHEX_ADMIN_KEY": "k" * 32, "NARTHEX_ACCESS_LOG": "1"}
    async with serve(echo, "127.0.0.1", 0) as upstream:
        port = next(iter(upstream.sockets)).getsockname()[1]
        words = ("--upstream", f"ws://127.0.0.1:{port}", *LOGGED)
        program = Program(tmp_path, env, words, serving="guard")
        try:
            await program.start()
            headers = {"Authorization": f"Bearer {token('ada')}"}
            async with connect(
                program.ws, additional_headers=headers, proxy=None, compression=None
            ) as socket:
                await socket.send("x" * 5_000)
                await socket.recv()
            (first,) = await ends(program, 1)
            assert of(first, "code", "user") == (1005, ADA)  # the frame passed untouched
            assert 5_000 < first["bytes_in"] < 8_000
            assert 5_000 < first["bytes_out"] < 8_000
            async with connect(program.ws, additional_headers=headers, proxy=None) as socket:
                await socket.close(3500, "token_revoked: sign in again")
            assert of((await ends(program, 2))[1], "code", "reason") == (1005, "")
            async with connect(program.ws, additional_headers=headers, proxy=None) as socket:
                await socket.send(VANISH)
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
            assert of((await ends(program, 3))[2], "code", "reason") == (4006, "upstream_gone")
            body = {"kind": "subject", "tenant": "default", "value": "ada", "reason": "r"}
            async with connect(program.ws, additional_headers=headers, proxy=None) as socket:
                answer = await program.post(
                    "/api/v1/revoke", json=body, headers={"Authorization": f"Bearer {'k' * 32}"}
                )
                assert answer.status_code == 200
                with pytest.raises(ConnectionClosed):
                    await socket.recv()
            assert of((await ends(program, 4))[3], "code", "reason") == (3500, "token_revoked")
        finally:
            program.end()
