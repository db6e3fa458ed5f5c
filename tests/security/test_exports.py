"""Item 11: unread exports hold little memory, are limited in number, and end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from narthex.adapters.stores.sqlite import SqliteStore
from narthex.ports.edge import ABORT
from narthex.ports.threads import Message, Thread, ThreadMember
from narthex.web.api.export import CHUNK_BYTES, Download
from tests.acceptance.program import Program, running
from tests.campaigns.follower import SERVED, token
from tests.timing import within

MIB = 1 << 20
READERS = 40
MESSAGES = 440
TEXT = "a text of thirty thousand characters. " * 800  # 13 MB in total


async def seed(data: Path) -> None:
    """A thread of 13 MB with `READERS` members."""
    began = time.time() - 3600
    store = SqliteStore(data / "narthex.db")
    await store.start()
    thread = Thread(
        thread_id="big", tenant="acme", title="Big", created_by="u0", created_at=began, updated_at=began
    )
    await store.threads.create(thread)
    for number in range(1, READERS):
        member = ThreadMember(user_id=f"u{number}", role="member", joined_at=1.0)
        await store.threads.add_member("acme", "big", member, limit=None)
    for start in range(0, MESSAGES, 20):
        await store.threads.add_messages(
            "acme",
            [
                Message(
                    message_id=f"m{n}",
                    thread_id="big",
                    role="user",
                    author="u0",
                    content=TEXT,
                    created_at=began + n // 7,
                )
                for n in range(start, start + 20)
            ],
        )
    await store.stop()


@contextlib.asynccontextmanager
async def seeded(directory: Path) -> AsyncIterator[Program]:
    """A program with that thread."""
    data = directory / "data"
    data.mkdir()
    await seed(data)
    async with running(directory, SERVED) as program:
        yield program


def ask(program: Program, user: str, plan: str) -> socket.socket:
    """Request the export and read nothing."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.connect(("127.0.0.1", program.port))
    bearer = token(user, plan=plan)
    one.sendall(
        f"GET /api/v1/threads/big/export HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {bearer}\r\n\r\n".encode()
    )
    return one


def rss(program: Program) -> int:
    assert program.process is not None
    return int(psutil.Process(program.process.pid).memory_info().rss)


async def statuses(asked: list[socket.socket]) -> list[int]:
    """The status of each answer."""
    loop = asyncio.get_running_loop()
    found = []
    for one in asked:
        one.setblocking(False)
        async with asyncio.timeout(within(20)):
            found.append(int((await loop.sock_recv(one, 12)).split()[1]))
    return found


@pytest.mark.acceptance
async def test_forty_unread_exports_hold_little(tmp_path: Path) -> None:
    """Forty users: at most 16 MB above idle; 730 MB before. A user who reads gets the complete thread."""
    async with seeded(tmp_path) as program:
        headers = {"Authorization": f"Bearer {token('u0')}"}
        path = "/api/v1/threads/big/export"
        whole = (await program.get(path, headers=headers, timeout=within(30))).json()
        assert [one["message_id"] for one in whole["messages"]] == [f"m{n}" for n in range(MESSAGES)]
        assert all(one["content"] == TEXT for one in whole["messages"])
        markdown = (await program.get(f"{path}?format=md", headers=headers, timeout=within(30))).text
        assert markdown.count(TEXT) == MESSAGES
        assert markdown.startswith("# Big\n\nMembers: u0, u1,")
        idle = rss(program)
        asked = [ask(program, f"u{number}", "free") for number in range(READERS)]
        try:
            assert await statuses(asked) == [200] * READERS
            highest = 0
            for _ in range(10):
                highest = max(highest, rss(program))
                await asyncio.sleep(0.2)
        finally:
            for one in asked:
                one.close()
        print(
            f"{READERS} unread exports: {(highest - idle) / MIB:+.1f} MiB above idle ({idle / MIB:.0f} MiB)"
        )
        assert highest - idle < 16 * MIB


@pytest.mark.acceptance
@pytest.mark.parametrize(("plan", "at_once"), [("free", 1), ("mid", 4)])
async def test_one_user_has_as_many_as_their_plan_allows(tmp_path: Path, plan: str, at_once: int) -> None:
    """The rest of forty are refused with a reason; when one ends, another is accepted."""
    async with seeded(tmp_path) as program:
        asked = [ask(program, "u1", plan) for _ in range(READERS)]
        try:
            assert sorted(await statuses(asked)) == [200] * at_once + [429] * (READERS - at_once)
        finally:
            for one in asked:
                one.close()
        headers = {"Authorization": f"Bearer {token('u1', plan=plan)}"}
        async with asyncio.timeout(within(10)):
            while True:
                answer = await program.get("/api/v1/threads/big/export", headers=headers, timeout=within(30))
                if answer.status_code == 200:
                    break
                assert answer.json()["code"] == "exports_limit"


async def test_a_client_that_stands_still_is_dropped() -> None:
    """Another export takes its place."""
    ended: list[str] = []

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * CHUNK_BYTES

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    sent = 0

    async def send(_: Any) -> None:
        nonlocal sent
        sent += 1
        if sent > 3:
            await asyncio.Event().wait()

    download = Download(
        parts(), media_type="text/plain", headers={}, on_end=lambda: ended.append("end"), stall_s=0.1
    )
    scope = {"type": "http", "extensions": {ABORT: {"abort": lambda: ended.append("abort")}}}
    async with asyncio.timeout(within(5)):
        await download(scope, receive, send)
    assert ended == ["abort", "end"]


async def test_a_client_that_left_ends_it() -> None:
    """At the next chunk, without any wait."""
    ended: list[str] = []
    chunks: list[bytes] = []

    async def parts() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0)
            yield b"x" * CHUNK_BYTES

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        chunks.append(message.get("body", b""))

    download = Download(parts(), media_type="text/plain", headers={}, on_end=lambda: ended.append("end"))
    async with asyncio.timeout(within(5)):
        await download({"type": "http"}, receive, send)
    assert ended == ["end"]
    assert len(chunks) <= 3
    assert json.dumps([len(one) for one in chunks[1:2]]) == f"[{CHUNK_BYTES}]"
