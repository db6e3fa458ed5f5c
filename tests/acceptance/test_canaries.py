"""Canaries in the real program: secrets planted in every part of a request appear in no log, even at debug level."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException
from websockets.typing import Subprotocol

from tests.acceptance.program import Program, running

pytestmark = pytest.mark.acceptance

E2E_KEY = "e2e-Live-Key-93fA0c7Q-Zr8Nc4Ux1Qe7"
ADMIN_KEY = "adm-Live-Key-5Wm2Ys6Ht1Bg3-Jd0Rk8Vn"
JWT_SECRET = "jwt-Live-Secret-7Zp4Lw9fQ2x-Tb6Mc1Hs"
WRONG_JWT = (
    "eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIn0.eyJzdWIiOiJncmFjZSIsImV4cCI6MTg5NjAwMDAwMH0."
    "MEUCIQDx0PqkTz4uYb1v5g7wz8N2kq3Jr6s9Lm0aVbXcDeFg"
)
TICKET = "tk-9fQ2xLw7Zp4Rk8Vn0aB3"
COOKIE = "ck5Jd0Wm2Ys6Ht1Bg3Xy7Z"
PASSWORD = "pw-Zr8Nc4Ux1Qe7Lm5Gd2"
OPAQUE = "op4Hs9Kd2Fj7Wq1Zx6Cv3Bn"
CANARIES = (E2E_KEY, ADMIN_KEY, JWT_SECRET, WRONG_JWT, TICKET, COOKIE, PASSWORD, OPAQUE)

ENVIRON = {
    "ENVIRONMENT": "testing",
    "E2E_OAUTH_SIMULATION_KEY": E2E_KEY,
    "NARTHEX_ADMIN_KEY": ADMIN_KEY,
    "NARTHEX_JWT_SECRET": JWT_SECRET,
    "NARTHEX_LOG_LEVEL": "debug",
}


def assert_clean(log: str, canaries: tuple[str, ...]) -> None:
    """Check that no piece of 8 characters of any canary is in the log."""
    for canary in canaries:
        for start in range(len(canary) - 7):
            piece = canary[start : start + 8]
            at = log.find(piece)
            assert at < 0, f"{piece!r} of a canary is in the log: …{log[max(0, at - 200) : at + 100]}…"


async def knock(
    program: Program, headers: dict[str, str], query: str = "", offered: tuple[str, ...] = ()
) -> None:
    """Try to connect, also in-band; the outcome does not matter."""
    subprotocols = [Subprotocol(name) for name in offered] or None
    with contextlib.suppress(WebSocketException, OSError, TimeoutError):
        async with (
            asyncio.timeout(10),
            connect(
                program.ws + query, additional_headers=headers, subprotocols=subprotocols, proxy=None
            ) as client,
        ):
            emulated = {"Authorization": f"Bearer {WRONG_JWT}"}
            body = {"token": WRONG_JWT, "headers": emulated, "data": {"x": PASSWORD}}
            await client.send(json.dumps({"id": 1, "connect": body}))
            async for _ in client:
                pass


async def raw(program: Program, request: bytes) -> None:
    """Send bytes unchanged and read the answer."""

    def exchange() -> None:
        with socket.create_connection(("127.0.0.1", program.port), timeout=5) as plug:
            plug.sendall(request)
            plug.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                while plug.recv(65536):
                    pass

    await asyncio.to_thread(exchange)


async def plant(program: Program) -> None:
    """Use every carrier and every route, with valid and invalid, well-formed and malformed values."""
    bearer = {"Authorization": f"Bearer {WRONG_JWT}"}
    for headers, query, offered in (
        (bearer, "", ()),
        ({"Authorization": f"Bearer {OPAQUE}"}, "", ()),
        ({"Authorization": f"Basic {OPAQUE}"}, "", ()),
        ({"Cookie": f"narthex={COOKIE}; narthex_session={COOKIE}"}, "", ()),
        ({"Cookie": f"narthex_token={WRONG_JWT}", "Origin": program.http}, "", ()),
        ({"X-E2E-Bypass-Key": OPAQUE}, "", ()),
        ({"X-E2E-Bypass-Key": E2E_KEY, "X-E2E-Test-Run": "run-1"}, "", ()),
        ({"X-E2E-Bypass-Key": E2E_KEY, **bearer}, "", ()),
        ({"X-Custom": COOKIE, "User-Agent": "canary"}, "", ()),
        ({}, f"?ticket={TICKET}", ()),
        ({}, f"?token={WRONG_JWT}", ()),
        ({}, f"?access_token={OPAQUE}&jwt={WRONG_JWT}", ()),
        ({}, "", ("jwt-auth", f"jwt.{WRONG_JWT}")),
        ({}, "", ("jwt-auth", f"jwt.{OPAQUE}", "narthex.explain")),
        ({}, "", ()),
    ):
        await knock(program, dict(headers), query, offered)
    await program.get("/ws/preflight", headers=bearer)
    await program.get(f"/ws/preflight?ticket={TICKET}")
    await program.get("/ws/stats", headers={"Authorization": f"Bearer {OPAQUE}"})
    await program.get("/ws/stats", headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    await program.get(f"/nowhere/{TICKET}?password={PASSWORD}", headers={"Cookie": f"a={COOKIE}"})
    await program.post("/ws/ticket", headers=bearer)
    await program.post("/auth/login", json={"email": "ada@example.com", "password": PASSWORD})
    await program.post("/auth/login", content=b'{"email": "x", "password": "' + PASSWORD.encode())
    await program.post("/auth/refresh", json={"refresh_token": OPAQUE})
    await program.post("/auth/introspect", data={"token": WRONG_JWT}, headers=bearer)
    for key in (OPAQUE, E2E_KEY):
        await program.post("/auth/e2e/test-auth", headers={"X-E2E-Bypass-Key": key}, json={"email": 5})
        await program.post(
            "/auth/e2e/test-auth", headers={"X-E2E-Bypass-Key": key}, json={"email": "q@example.com"}
        )
    await program.post(
        "/api/v1/publish", headers={"Authorization": f"Bearer {OPAQUE}"}, json={"data": PASSWORD}
    )
    await program.post(
        "/api/v1/publish", headers={"Authorization": f"Bearer {ADMIN_KEY}"}, content=PASSWORD.encode()
    )
    secret = PASSWORD.encode()
    await raw(
        program,
        b"GET /ws?ticket=" + secret + b" HTTP/1.1\r\nHost: x\r\nCookie: " + secret + b"\r\nbroken\r\n\r\n",
    )
    await raw(program, b"GET /ws HTTP/1.1\r\nHost: localhost\r\nX-Big: " + secret * 2000 + b"\r\n\r\n")
    await raw(program, secret + b" nonsense\r\n\r\n")
    await raw(
        program, b"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n" + secret
    )


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_no_secret_is_in_any_log(tmp_path: Path, log_format: str) -> None:
    """At debug level, in both formats, through a clean stop."""
    async with running(tmp_path, ENVIRON, ("--log-format", log_format)) as program:
        await plant(program)
        issued = await program.login("grace@example.com")
        await knock(program, {"Authorization": f"Bearer {issued}"})
        token = program.token("ada")
        await knock(program, {}, "", ("jwt-auth", f"jwt.{token}"))
        answer = await program.post("/ws/ticket", headers={"Authorization": f"Bearer {token}"})
        ticket = str(answer.json()["ticket"])
        await knock(program, {}, f"?ticket={ticket}")
        program.terminate()
        log = program.log
    assert log.count("handshake") > 10
    assert_clean(log, CANARIES)
    # The heads of all JWTs of one algorithm are equal, so their first piece is not secret; the rest is.
    assert_clean(log, tuple(part for jwt in (issued, token) for part in jwt.split(".")[1:]))
    assert_clean(log, (ticket,))
    for path in (tmp_path / "data").rglob("*.log"):
        assert_clean(path.read_text(errors="replace"), CANARIES)
