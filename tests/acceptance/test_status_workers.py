"""The status page of several processes: the workers of one gateway, and a guard that reports to a service."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from narthex.e2e.children import free_port
from tests.acceptance.fleet import ADMIN_KEY
from tests.acceptance.program import Program, running
from tests.timing import within

pytestmark = pytest.mark.acceptance

TOKEN: Final = "status-token-of-the-tests-01"


async def document(program: Program) -> dict[str, Any]:
    """The page, over a connection of its own: any worker answers."""
    found: dict[str, Any] = (await program.get("/status.json")).json()
    return found


async def until(program: Program, wanted: dict[str, str]) -> None:
    """Wait until the components have these states."""
    ends_at = time.monotonic() + within(30)
    while True:
        found = {one["id"]: one["state"] for one in (await document(program))["components"]}
        if wanted.items() <= found.items():
            return
        assert time.monotonic() < ends_at, found
        await asyncio.sleep(0.1)


async def test_workers_have_one_page(tmp_path: Path) -> None:
    """An incident that one worker was told is on the page of each, and so are the samples of both."""
    async with running(tmp_path, {"NARTHEX_ADMIN_KEY": ADMIN_KEY}, ("--workers", "2")) as program:
        await until(program, dict.fromkeys(("connect", "send", "stream", "sign_in"), "operational"))
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        for number in range(6):
            body = {"title": f"Incident {number}", "text": "x"}
            assert (await program.post("/api/v1/incidents", json=body, headers=headers)).status_code == 200
        await asyncio.sleep(1.1)  # each worker keeps a document for a second
        seen = [len((await document(program))["incidents"]) for _ in range(12)]
        assert seen == [6] * 12


async def test_a_guard_reports_to_a_service(tmp_path: Path) -> None:
    """What it measures: connecting, and the verification of credentials."""
    environment = {"NARTHEX_ADMIN_KEY": ADMIN_KEY, "NARTHEX_STATUS_TOKEN": TOKEN}
    for name in ("service", "guard"):
        (tmp_path / name).mkdir()
    service = Program(tmp_path / "service", environment, serving="status serve")
    upstream = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", free_port())
    guard = Program(
        tmp_path / "guard",
        environment | {"NARTHEX_STATUS_URL": service.http},
        ("--upstream", f"ws://127.0.0.1:{upstream.sockets[0].getsockname()[1]}"),
        serving="guard",
    )
    try:
        await service.start()
        guard.spawn()
        await until(service, {"connect": "operational", "sign_in": "operational", "send": "unknown"})
    finally:
        upstream.close()
        for program in (guard, service):
            await asyncio.to_thread(program.end)


def test_a_service_needs_no_engine(tmp_path: Path) -> None:
    """On Cloud Run a gateway with SQLite is refused; a page that is for one instance is not."""
    program = Program(
        tmp_path,
        {"NARTHEX_ADMIN_KEY": ADMIN_KEY, "ENVIRONMENT": "staging", "K_SERVICE": "status"},
        serving="status serve",
    )
    program.env["NARTHEX_ALLOWED_HOSTS"] = "127.0.0.1"
    try:
        asyncio.run(program.start())
        assert httpx2.get(f"{program.http}/status", trust_env=False).status_code == 200
    finally:
        program.end()
