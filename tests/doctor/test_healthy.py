"""No false alarm: good set-ups have no finding."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.e2e.children import free_port
from tests.acceptance.program import running
from tests.doctor.clinic import examined
from tests.doctor.proxies import ASGI_ECHO, UPGRADE, caddy, haproxy, nginx, plain_server, python_server
from tests.doctor.scripted import Authority
from tests.timing import within

pytestmark = pytest.mark.acceptance

LONG = " timeout client 30s\n timeout server 30s\n timeout tunnel 1h"
KNOWN_WARNING = "large_head_silence"  # true of uvicorn with websockets: it never answers a line over 8 KB
PATIENT: dict[str, object] = {"timeout_s": within(5)}


@contextlib.asynccontextmanager
async def uvicorn(directory: Path) -> AsyncIterator[int]:
    """Uvicorn with websockets."""
    port = free_port()
    words = ("-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning")
    async with python_server(directory, ASGI_ECHO, *words, port=port) as at:
        yield at


async def healthy(url: str, **options: object) -> str:
    """Examine, expect nothing, give the first line."""
    diagnosis, seen = await examined(url, **{**PATIENT, **options})
    unexpected = {finding.code for finding in diagnosis.findings} - {KNOWN_WARNING}
    assert not unexpected, (diagnosis.first_line, [step for step in seen.steps if not step.ok])
    assert not diagnosis.failed
    return diagnosis.first_line


async def test_a_narthex_and_three_proxies_before_it(tmp_path: Path) -> None:
    """Set-ups 1 to 6: the gateway without and with a token, behind nginx, HAProxy and Caddy, and in staging."""
    async with running(tmp_path, env={"NARTHEX_TRUSTED_PROXIES": "127.0.0.1"}) as program:
        token = program.token("ada")
        await healthy(f"http://127.0.0.1:{program.port}")
        line = await healthy(f"ws://127.0.0.1:{program.port}/ws", token=token, hold_s=within(1))
        assert "connect, echo, event, resume too" in line
        for proxy in (
            nginx(tmp_path, f"location / {{ proxy_pass http://127.0.0.1:{program.port}; {UPGRADE} }}"),
            haproxy(tmp_path, program.port, timeouts=LONG),
            caddy(tmp_path, f"reverse_proxy 127.0.0.1:{program.port}"),
        ):
            async with proxy as port:
                await healthy(f"ws://127.0.0.1:{port}/ws")
                assert "resume too" in await healthy(f"ws://127.0.0.1:{port}/ws", token=token)


async def test_a_narthex_that_demands_a_token(tmp_path: Path) -> None:
    """Set-up 7: staging refuses without a token, as it should."""
    env = {"ENVIRONMENT": "staging", "NARTHEX_JWT_SECRET": "s" * 40, "NARTHEX_ALLOWED_HOSTS": "127.0.0.1"}
    async with running(tmp_path, env=env) as program:
        diagnosis, _ = await examined(program.ws, **PATIENT)
        assert not diagnosis.findings, diagnosis.first_line
        assert any("Give --token" in note for note in diagnosis.notes)
        assert "resume too" in await healthy(program.ws, token=program.token("ada"))


async def test_plain_websockets_servers(tmp_path: Path) -> None:
    """Set-ups 8 to 11: the `websockets` server directly, over TLS, behind nginx and behind HAProxy."""
    async with plain_server() as upstream:
        await healthy(f"ws://127.0.0.1:{upstream}/", hold_s=within(1))
        async with nginx(
            tmp_path, f"location / {{ proxy_pass http://127.0.0.1:{upstream}; {UPGRADE} }}"
        ) as port:
            await healthy(f"ws://127.0.0.1:{port}/")
        async with haproxy(tmp_path, upstream, timeouts=LONG) as port:
            await healthy(f"ws://127.0.0.1:{port}/")
    authority = Authority(tmp_path)
    async with plain_server(ssl=authority.context("localhost")) as upstream:
        await healthy(f"wss://localhost:{upstream}/", ca_file=str(authority.root))


async def test_uvicorn_directly_and_behind_caddy(tmp_path: Path) -> None:
    """Set-ups 12 and 13."""
    async with uvicorn(tmp_path) as upstream:
        await healthy(f"ws://127.0.0.1:{upstream}/ws")
        async with caddy(tmp_path, f"reverse_proxy 127.0.0.1:{upstream}") as port:
            await healthy(f"ws://127.0.0.1:{port}/ws")
