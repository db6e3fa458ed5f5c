"""SIGTERM on the real program: 503 for new clients, paced closes, runs ended, exit in time."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
from pathlib import Path

import pytest

from tests.acceptance.crowd import Client
from tests.acceptance.program import Program, running
from tests.acceptance.sdk import person

pytestmark = pytest.mark.acceptance


async def crowd(program: Program, count: int, users: int) -> list[Client]:
    """Live clients of some users."""
    tokens = await asyncio.gather(*(program.login(f"user-{n}@example.com") for n in range(users)))
    clients = [Client("127.0.0.1", program.port, tokens[n % users]) for n in range(count)]
    for at in range(0, count, 100):
        await asyncio.gather(*(client.live() for client in clients[at : at + 100]))
    return clients


async def drained(program: Program, clients: list[Client], pending: int) -> tuple[float, list[float]]:
    """Send SIGTERM; returns how long the process took, and when each client was closed, counted from the signal."""
    loop = asyncio.get_running_loop()
    half_open = [await asyncio.open_connection("127.0.0.1", program.port) for _ in range(pending)]
    for _, writer in half_open:
        writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\n")
    listening = [asyncio.create_task(client.listen()) for client in clients]
    assert program.process is not None
    began = loop.time()
    program.process.send_signal(signal.SIGTERM)
    late = Client("127.0.0.1", program.port)
    async with asyncio.timeout(5):
        while True:
            late = Client("127.0.0.1", program.port)
            if await late.open() == 503:
                break
            late.end()
            await asyncio.sleep(0.05)
    late.end()
    assert json.loads(late.body)["code"] == "draining"
    ready = await program.get("/readyz")
    assert ready.status_code == 503
    assert loop.time() - began < 1.5
    code = await asyncio.to_thread(program.process.wait, 15)
    took = loop.time() - began
    assert code == 0, program.log[-2000:]
    await asyncio.gather(*listening)
    for _, writer in half_open:
        writer.close()
    return took, [client.closed_at - began for client in clients]


async def test_a_drain_is_orderly(tmp_path: Path) -> None:
    """300 sockets and 20 half-open handshakes; a run in progress is ended, not lost."""
    async with running(
        tmp_path, {"NARTHEX_MAX_CONNECTIONS_PER_USER": "1000", "NARTHEX_DRAIN_GRACE_S": "5"}
    ) as program:
        clients = await crowd(program, 300, 3)
        async with person(program.ws, program.token("ada")) as ada:
            thread_id = (await ada.rpc("thread.create"))["thread_id"]
            await ada.follow(thread_id)
            run = await ada.start("count to 2000", thread_id)
            await ada.until(lambda: len(ada.run_events(thread_id, run["run_id"])) > 5, "the run under way")
            took, moments = await drained(program, clients, 20)
            assert took < 5
            assert {client.close_code for client in clients} == {3001}
            assert max(moments) - min(moments) > 1
            terminal = await ada.finished(thread_id, run["run_id"], 10)
            assert terminal["type"] in ("RUN_ERROR", "RUN_FINISHED")


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_five_thousand_sockets_drain_within_nine_seconds(tmp_path: Path) -> None:
    """Exit within 9 s, closes spread over at least 5 s of it, 50 pending handshakes."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    env = {"NARTHEX_MAX_CONNECTIONS_PER_USER": "1000", "NARTHEX_MAX_CONNECTIONS_PER_ADDRESS": "10000"}
    async with running(tmp_path, env) as program:
        clients = await crowd(program, 5_000, 10)
        took, moments = await drained(program, clients, 50)
        print(f"exit after {took:.2f} s; closes from {min(moments):.2f} to {max(moments):.2f} s")
        assert took < 9
        assert max(moments) - min(moments) >= 5
        assert sum(client.close_code == 3001 for client in clients) == 5_000


async def test_an_operator_drains_by_url(tmp_path: Path) -> None:
    """`narthex drain URL` works with the admin key only."""
    key = "an-admin-key-of-decent-length-0123456789"
    async with running(tmp_path, {"NARTHEX_ADMIN_KEY": key}) as program:
        assert program.run("drain", program.http, env={}).returncode == 2
        wrong = program.run("drain", program.http, env={"NARTHEX_ADMIN_KEY": "wrong"})
        assert wrong.returncode == 1
        assert "admin key is wrong" in wrong.stderr
        assert (await program.get("/readyz")).status_code == 200
        done = await asyncio.to_thread(program.run, "drain", program.http, env={"NARTHEX_ADMIN_KEY": key})
        assert done.returncode == 0, done.stderr
        assert "gone" in done.stdout
        assert program.process is not None
        assert program.process.wait(5) == 0
        assert key not in program.log + done.stdout + done.stderr + wrong.stderr
