"""Tokens at a real gateway: forgeries before the upgrade, an issuer that fails, the end of tokens on live sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from narthex.adapters.stores.sqlite import SqliteStore
from narthex.ports.credentials import Revocation
from narthex.testing import Running, gateway
from tests.acceptance.program import clean_environment
from tests.adapters.tokens import issuer
from tests.adapters.tokens.forgeries import forgeries
from tests.adapters.tokens.http_issuer import HttpIssuer
from tests.adapters.tokens.issuer import AUDIENCE, ISSUER, rsa_key, token
from tests.fault_proxy import FaultProxy, Mode
from tests.guard.matrices import NOT_IN_A_HEADER
from tests.guard.targets import Answer, handshake
from tests.timing import within

JWKS = "/jwks.json"


@pytest.fixture(autouse=True)
def now(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current time, which the test issuer's tokens use."""
    monkeypatch.setattr(issuer, "NOW", time.time())


def bearer(text: str) -> dict[str, str]:
    """The Authorization header."""
    return {"Authorization": f"Bearer {text}"}


class Line:
    """A WebSocket with the few commands that these tests need; `after` holds unsolicited frames."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self._next = 0

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command; returns its reply."""
        self._next += 1
        await self.socket.send(json.dumps({"id": self._next, **command}))
        async with asyncio.timeout(within(5)):
            async for frame in self.socket:
                for line in str(frame).splitlines():
                    reply: dict[str, Any] = json.loads(line)
                    if reply.get("id") == self._next:
                        return reply
        raise AssertionError("the socket ended")

    async def echo(self) -> bool:
        """Whether the socket works."""
        return "rpc" in await self.ask(rpc={"method": "echo", "data": 1})

    async def closed(self) -> tuple[int, str, float, list[dict[str, Any]]]:
        """Wait for the end; returns code, reason, time, and the pushes that arrived before it."""
        pushes: list[dict[str, Any]] = []
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(within(15)):
                while True:
                    replies = [json.loads(line) for line in str(await self.socket.recv()).splitlines()]
                    pushes.extend(reply["push"] for reply in replies if "push" in reply)
        assert self.socket.close_code is not None
        return self.socket.close_code, self.socket.close_reason or "", time.time(), pushes


@contextlib.asynccontextmanager
async def line(running: Running, text: str) -> AsyncIterator[Line]:
    """A connected client."""
    async with connect(running.ws, additional_headers=bearer(text), proxy=None) as socket:
        found = Line(socket)
        reply = await found.ask(connect={})
        assert "connect" in reply, reply
        yield found


async def upgrade(running: Running, text: str) -> Answer:
    """One handshake over a raw socket."""
    return await handshake(running.http, [("Authorization", f"Bearer {text}")])


# -- an issuer that fails ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def behind_a_proxy(directory: Path) -> AsyncIterator[tuple[Running, FaultProxy, HttpIssuer]]:
    """A gateway whose key set is behind a proxy that can fail."""
    async with HttpIssuer() as keys, FaultProxy(keys.port) as proxy:
        keys.documents[JWKS] = {"keys": [rsa_key(1).as_dict(private=False)]}
        options: dict[str, Any] = {
            "jwks_url": proxy.url + JWKS,
            "jwt_issuer": ISSUER,
            "jwt_audience": [AUDIENCE],
        }
        async with gateway(directory / "data", **options) as running:
            yield running, proxy, keys


async def test_an_outage_of_the_issuer_locks_nobody_out_who_can_be_verified(tmp_path: Path) -> None:
    """Dead, hung or slow: cached keys admit, unknown keys get 503 within 2 s, open sockets work; then it recovers."""
    known, unknown = token(rsa_key(1), "RS256"), token(rsa_key(2), "RS256")
    async with behind_a_proxy(tmp_path) as (running, proxy, keys), line(running, known) as opened:
        modes: tuple[Mode, ...] = ("dead", "hung", "slow")
        for mode in modes:
            proxy.delay_s = 3.0
            await proxy.set(mode)
            proxy.connections = 0
            rounds = 0
            while rounds < 3 or (
                mode != "dead" and not proxy.connections
            ):  # until a request has met the fault
                rounds += 1
                await asyncio.sleep(0.1)  # as often as an impatient client reconnects
                began = time.monotonic()
                assert (await upgrade(running, known))[0] == 101
                status, headers, body = await upgrade(running, unknown)
                assert time.monotonic() - began < within(2), mode
                assert (status, body["code"]) == (503, "auth_unavailable"), mode
                assert int(headers["retry-after"]) >= 1
                assert await opened.echo()
        async with httpx2.AsyncClient(trust_env=False) as client:
            health = (await client.get(f"{running.http}/ws/health")).json()
            assert health["checks"]["auth"]["status"] == "degraded"
        keys.documents[JWKS] = {"keys": [rsa_key(2).as_dict(private=False)]}
        await proxy.set("pass")
        began = time.monotonic()
        while (await upgrade(running, unknown))[0] != 101:
            assert time.monotonic() - began < within(10)
            await asyncio.sleep(0.1)  # as often as an impatient client reconnects
        assert await opened.echo()


@pytest.mark.alone
async def test_five_thousand_bad_tokens_lock_nobody_out(tmp_path: Path) -> None:
    """No 500, the breaker stays closed, and 99.9 % of the good connects in between succeed."""
    bad = [
        build() for name, (build, code) in forgeries("http://127.0.0.1:9/").items()
        if name not in NOT_IN_A_HEADER and code != "token_expired" and "HMAC" not in name
    ]  # fmt: skip
    good_token = token(rsa_key(1), "RS256")
    statuses: Counter[int] = Counter()
    others: Counter[str] = Counter()
    admitted = 0
    slots = asyncio.Semaphore(20)

    async with behind_a_proxy(tmp_path) as (running, _, keys):

        async def knock(number: int) -> None:
            nonlocal admitted
            async with slots:
                statuses[(await upgrade(running, bad[number % len(bad)]))[0]] += 1
                if number % 10 == 0:
                    status, _, body = await upgrade(running, good_token)
                    admitted += status == 101
                    if status != 101:
                        others[f"{status} {body.get('code')}"] += 1

        began = time.monotonic()
        await asyncio.gather(*(knock(number) for number in range(5_000)))
        took = time.monotonic() - began
        async with httpx2.AsyncClient(trust_env=False) as client:
            metrics = (await client.get(f"{running.http}/metrics")).text
        print(
            f"5,000 bad tokens in {took:.1f} s: {dict(statuses)}; {admitted} of 500 good ones admitted, {dict(others)}"
        )
    assert took < within(30)
    assert 500 not in statuses
    assert 101 not in statuses
    assert admitted == 500
    breakers = [row for row in metrics.splitlines() if row.startswith("narthex_breaker_state{")]
    assert all(row.endswith(" 0.0") for row in breakers), breakers
    assert keys.hits[JWKS] <= 3


# -- life on a live socket ---------------------------------------------------------------------------------


async def test_a_socket_ends_between_exp_and_the_end_of_grace(tmp_path: Path) -> None:
    """`ttl` gives the time; without a refresh the socket is closed 3005, not before `exp` and not after the grace."""
    async with gateway(tmp_path, token_grace_s=2.0) as running:
        text = running.token("ada", ttl_s=3)
        expires_at = json.loads(base64.urlsafe_b64decode(text.split(".")[1] + "=="))["exp"]
        async with connect(running.ws, additional_headers=bearer(text), proxy=None) as socket:
            client = Line(socket)
            connected = (await client.ask(connect={}))["connect"]
            assert connected["expires"] is True
            assert 1 <= connected["ttl"] <= 3
            code, reason, moment, _ = await client.closed()
        assert (code, reason.partition(":")[0]) == (3005, "expired")
        assert expires_at <= moment <= expires_at + 2 + 0.5


async def test_a_refresh_in_time_keeps_it_and_another_subject_ends_it(tmp_path: Path) -> None:
    """An in-band refresh moves the end; another user's token is a conflict."""
    async with gateway(tmp_path, token_grace_s=1.0) as running:
        async with line(running, running.token("ada", ttl_s=2)) as client:
            reply = await client.ask(refresh={"token": running.token("ada", ttl_s=600)})
            assert reply["refresh"]["ttl"] > 500
            await asyncio.sleep(3.5)  # past the first token's `exp` and grace
            assert await client.echo()
        async with line(running, running.token("ada")) as client:
            await client.socket.send(json.dumps({"id": 9, "refresh": {"token": running.token("bob")}}))
            code, reason, _, _ = await client.closed()
            assert (code, reason.partition(":")[0]) == (3501, "credential_conflict")


@pytest.mark.parametrize("how", ["token", "logout", "block", "issued_before"])
async def test_revocation_closes_live_sockets_within_a_second(tmp_path: Path, how: str) -> None:
    """By jti, by logout, by subject and by time: closed with 3500, no frame after it, and reconnecting is refused."""
    async with gateway(tmp_path) as running:
        parts = running.gateway.parts
        assert parts is not None
        text, other = running.token("ada"), running.token("bob")
        async with line(running, text) as client, line(running, other) as bystander:
            ending = asyncio.create_task(client.closed())
            await asyncio.sleep(0)
            began = time.time()
            async with httpx2.AsyncClient(trust_env=False, base_url=running.http) as http:
                if how == "token":
                    await http.post("/auth/revoke", data={"token": text})
                elif how == "logout":
                    await http.post("/auth/logout", headers=bearer(text))
                elif how == "block":
                    await parts.core.revocations.revoke_subject(
                        "default", "ada", until=began + 60, reason="test"
                    )
                else:
                    await parts.core.revocations.revoke(
                        Revocation(
                            kind="issued_before",
                            tenant="default",
                            value="ada",
                            at=began,
                            cut=began + 1,
                            until=began + 61,
                            reason="test",
                        )
                    )
            code, reason, moment, _ = await ending
            assert (code, reason.partition(":")[0]) == (3500, "token_revoked")
            assert moment - began < within(1)
            assert await bystander.echo()
        status, _, body = await upgrade(running, text)
        assert (status, body["code"]) == (401, "token_revoked")


async def test_a_revocation_that_no_broadcast_told_of_closes_within_a_second(tmp_path: Path) -> None:
    """Among 20,000 others: written by another process without a broadcast, found by the poll."""
    async with gateway(tmp_path) as running:
        beside = SqliteStore(tmp_path / "narthex.db", beside=True)
        await beside.start()
        now = time.time()

        def revocation(value: str, kind: str = "jti") -> Revocation:
            return Revocation(kind=kind, tenant="default", value=value, at=now, until=now + 600)

        for start in range(0, 20_000, 1_000):
            numbers = range(start, start + 1_000)
            await asyncio.gather(*(beside.credentials.add_revocation(revocation(f"x-{n}")) for n in numbers))
        parts = running.gateway.parts
        assert parts is not None
        async with asyncio.timeout(within(10)):
            while len(parts.core.revocations) < 20_000:  # noqa: ASYNC110 - a poll has no event
                await asyncio.sleep(0.05)
        async with (
            line(running, running.token("ada")) as client,
            line(running, running.token("bob")) as other,
        ):
            ending = asyncio.create_task(client.closed())
            await beside.credentials.add_revocation(revocation("ada", "subject"))
            began = time.time()
            code, reason, moment, _ = await ending
            assert (code, reason.partition(":")[0]) == (3500, "token_revoked")
            assert moment - began < within(1)
            assert await other.echo()
        await beside.stop()


async def test_a_leaked_key_ends_on_a_running_gateway_within_two_seconds(tmp_path: Path) -> None:
    """`narthex keys rotate --now` on a running gateway: sockets and tokens of the old key end, new tokens are
    accepted.
    """
    async with gateway(tmp_path) as running:
        stolen = running.token("ada")
        async with contextlib.AsyncExitStack() as stack:
            client = await stack.enter_async_context(line(running, stolen))
            ending = asyncio.create_task(client.closed())
            await _rotate_now(tmp_path)
            began = time.monotonic()
            code, reason, _, _ = await ending
            assert (code, reason.partition(":")[0]) == (3011, "force_reconnect")  # and is verified again
            assert time.monotonic() - began < within(2)
        for _ in range(3):
            status, _, body = await upgrade(running, stolen)
            assert (status, body["code"]) == (401, "unknown_key")
        assert (await upgrade(running, running.token("ada")))[0] == 101


async def _rotate_now(data_dir: Path) -> None:
    """`narthex keys rotate --now`, while the server runs."""
    command = [sys.executable, "-m", "narthex", "keys", "rotate", "--now", "--data-dir", str(data_dir)]
    rotation = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, env=clean_environment({})
    )
    assert await rotation.wait() == 0
