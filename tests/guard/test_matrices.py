"""The gateway's own upgrade and guarded applications decide alike: one suite over both, each a real server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import jwt
import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from narthex.domain.refusals import TABLE
from tests.adapters.tokens import issuer
from tests.adapters.tokens.forgeries import good
from tests.adapters.tokens.http_issuer import HttpIssuer
from tests.guard.cores import token
from tests.guard.matrices import ATTEMPTS, KEY, ROWS, UNPROVEN, Row, attempted, bearer, forged, issuers
from tests.guard.servers import SERVERS, free_port
from tests.guard.targets import EVERY, GATEWAY, Target, handshake, target
from tests.timing import within

pytestmark = pytest.mark.acceptance
LIGHT = "uvicorn-websockets/starlette"
ADMIN = "admin-key-0123456789abcdef"
ENVIRON = {
    "E2E_OAUTH_SIMULATION_KEY": KEY,
    "E2E_TESTING": "1",
    "NARTHEX_MAX_CONNECTIONS_PER_USER": "2",
    "NARTHEX_ADMIN_KEY": ADMIN,
}


@pytest_asyncio.fixture(params=EVERY, scope="module", loop_scope="module")
async def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Target]:
    """A target with a shared secret, an end-to-end key, and two connections a user."""
    async with target(request.param, tmp_path_factory.mktemp("matrix"), ENVIRON) as found:
        yield found


def opened(server: Target, subject: str, *offered: str, **headers: str) -> connect:
    """A connection attempt of a client library."""
    return connect(
        server.ws,
        additional_headers=headers or bearer(token(subject)),
        subprotocols=[Subprotocol(name) for name in offered] or None,
        proxy=None,
        open_timeout=within(10),
    )


@pytest.mark.parametrize("name", EVERY)
async def test_forged_tokens(name: str, tmp_path: Path) -> None:
    """Each gets its code and reaches nothing; nothing that one names is fetched; good tokens are admitted."""
    async with HttpIssuer() as canary, target(name, tmp_path, issuers(tmp_path)) as server:
        assert await forged(server, f"{canary.url}/jwks.json") > 90
        before = server.reached
        for kind, build in good().items():
            issuer.NOW = time.time() + (20 if kind == "expired within leeway" else 0)
            answer = await handshake(server.http, list(bearer(build()).items()))
            assert answer.status == 101, kind
        if name != GATEWAY:  # the application that counts does count
            async with asyncio.timeout(within(5)):
                while server.reached < before + len(good()):  # noqa: ASYNC110 - a file has no event
                    await asyncio.sleep(0.02)
        assert not canary.hits


@pytest.mark.asyncio(loop_scope="module")
async def test_attempts(server: Target) -> None:
    """Credentials, cookies, pages, keys, tickets and claimed identities: each with its code, before the upgrade."""
    await attempted(server)
    assert await server.outcome(bearer(token()), path="/elsewhere") == (
        "no_route" if server.carries_refusals else ""
    )
    before = server.reached
    if server.carries_refusals:
        assert await server.outcome(bearer(token()), host="evil.example") == "bad_request"
    assert server.reached == before


@pytest.mark.asyncio(loop_scope="module")
async def test_a_browser_gets_the_close_code_of_each(server: Target) -> None:
    """A client that offers `narthex.explain` is closed with the code of the table."""
    before = server.reached
    for name, (code, headers, query) in ATTEMPTS.items():
        if server.inert and code in UNPROVEN:
            continue
        given = {key: value for key, value in headers.items() if key != "Sec-WebSocket-Protocol"}
        protocols = headers.get("Sec-WebSocket-Protocol", "").split(", ")
        offered = [Subprotocol(one) for one in (*protocols, "narthex.explain") if one]
        async with connect(
            server.ws + query, additional_headers=given, subprotocols=offered, proxy=None
        ) as socket:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), within(5))
        assert socket.close_code == TABLE[code].close, name
        assert socket.subprotocol == "narthex.explain", name
        if server.carries_refusals:
            assert str(socket.close_reason).partition(":")[0] == code
    assert server.reached == before


@pytest.mark.asyncio(loop_scope="module")
async def test_who_gets_in(server: Target) -> None:
    """A token by header, subprotocol and cookie of an own page; a key's proof; a ticket once."""
    own = {"Origin": server.http}
    async with httpx2.AsyncClient(base_url=server.http, trust_env=False) as client:
        ticket = (await client.post("/ws/ticket", headers=bearer(token("tess")))).json()["ticket"]
    for headers, query in (
        (bearer(token("a")), ""),
        (own | bearer(token("b")), ""),
        ({"Sec-WebSocket-Protocol": f"jwt-auth, jwt.{token('c')}"}, ""),
        (own | {"Cookie": f"theme=dark; narthex_session={token('d')}"}, ""),
        ({"X-E2E-Bypass-Key": KEY, "X-E2E-Test-Run": "run-7"}, ""),
        ({}, f"?ticket={ticket}"),
    ):
        assert await server.outcome(headers, query) == "upgraded", (headers, query)
    assert await server.outcome({}, f"?ticket={ticket}") == "ticket_invalid"


@pytest.mark.asyncio(loop_scope="module")
async def test_limits_of_a_user(server: Target) -> None:
    """The third connection of a user is refused `connection_limit`; another user, and a later one, gets in."""
    async with AsyncExitStack() as stack:
        held: list[ClientConnection] = [
            await stack.enter_async_context(opened(server, "lima")) for _ in range(2)
        ]
        assert await server.outcome(bearer(token("lima"))) == "connection_limit"
        assert await server.outcome(bearer(token("mike"))) == "upgraded"
        await held[0].close()
        async with asyncio.timeout(within(5)):
            while await server.outcome(bearer(token("lima"))) != "upgraded":  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)


@pytest.mark.asyncio(loop_scope="module")
async def test_wrong_keys_are_limited(server: Target) -> None:
    """After ten in a minute, of handshakes and preflight together, the right key is refused `rate_limited` too."""
    for number in range(10):
        wrong = {"X-E2E-Bypass-Key": f"wrong-{number}-0123456789abcdefghijklmnop"}
        assert (await handshake(server.http, list(wrong.items()))).status != 101
    assert await server.outcome({"X-E2E-Bypass-Key": KEY}) == "rate_limited"
    assert await server.outcome(bearer(token("quebec"))) == "upgraded"


async def refused_with(server: Target, code: str, headers: dict[str, str]) -> None:
    """By status and body, and for a browser by close code and reason; a passing fault says when to come back."""
    assert await server.outcome(headers) == code
    if server.carries_refusals and TABLE[code].http in (429, 503):
        answer = await handshake(server.http, list(headers.items()))
        assert int(answer.headers["retry-after"]) > 0, answer
    async with connect(
        server.ws, additional_headers=headers, subprotocols=[Subprotocol("narthex.explain")], proxy=None
    ) as socket:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), within(5))
    assert socket.close_code == TABLE[code].close
    if server.carries_refusals:
        assert str(socket.close_reason).partition(":")[0] == code


async def gone(http: str) -> None:
    """Wait until the server takes no connection any more."""
    async with asyncio.timeout(within(10)), httpx2.AsyncClient(trust_env=False) as client:
        while True:
            try:
                await client.get(f"{http}/livez")
            except httpx2.ConnectError:
                return
            except httpx2.HTTPError:
                pass  # cut off while it ended
            await asyncio.sleep(0.05)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_credential_that_counted_once(server: Target) -> None:
    """A revoked user, a tenant that is reserved, more headers than are read: the codes of the table."""
    before = server.reached
    revoked = {"kind": "subject", "value": "romeo"}
    async with httpx2.AsyncClient(base_url=server.http, trust_env=False) as client:
        assert (await client.post("/api/v1/revoke", json=revoked, headers=bearer(ADMIN))).status_code == 200
    await refused_with(server, "token_revoked", bearer(token("romeo")))
    await refused_with(server, "tenant_mismatch", bearer(token("sierra", tenant="e2e")))
    assert server.reached == before
    if server.carries_refusals:
        many = {f"X-Header-{number}": "1" for number in range(105)}
        answer = await handshake(server.http, list((many | bearer(token())).items()))
        assert answer.status == 431
        assert answer.body.get("code", "") in (
            "head_too_large",
            "",
        )  # granian's own parser stops at 100 headers
        assert server.reached == before


@pytest.mark.parametrize("name", EVERY)
async def test_the_server_is_not_able_to(name: str, tmp_path: Path) -> None:
    """Limits of an address and of the process, an issuer that cannot be asked, a store that is not there, a drain."""
    for folder in ("full", "alone", "early"):
        (tmp_path / folder).mkdir()

    async def full() -> None:
        """Two connections an address, three in all; then it drains."""
        limits = {
            "NARTHEX_MAX_CONNECTIONS_PER_ADDRESS": "2",
            "NARTHEX_MAX_CONNECTIONS": "3",
            "NARTHEX_MAX_CONNECTIONS_UNAUTHENTICATED": "1",
            "NARTHEX_TRUSTED_PROXIES": "127.0.0.1",
            "NARTHEX_ADMIN_KEY": ADMIN,
            "NARTHEX_DRAIN_GRACE_S": "2",
        }
        async with target(name, tmp_path / "full", limits) as server, AsyncExitStack() as stack:

            def of(user: str, address: str) -> dict[str, str]:
                return bearer(token(user)) | {"X-Forwarded-For": address}

            for user in ("uma", "vic"):
                await stack.enter_async_context(opened(server, user, **of(user, "192.0.2.1")))
            await refused_with(server, "connection_limit", of("wim", "192.0.2.1"))
            await stack.enter_async_context(opened(server, "wim", **of("wim", "192.0.2.2")))
            await refused_with(server, "connection_limit", of("xen", "192.0.2.3"))
            async with httpx2.AsyncClient(base_url=server.http, trust_env=False) as client:
                answer = await client.post("/api/v1/drain", json={}, headers=bearer(ADMIN))
                assert answer.status_code in (200, 202)
            if name == GATEWAY:  # with no run under way it is gone at once (tests/acceptance/test_drain.py)
                await gone(server.http)
                return
            async with httpx2.AsyncClient(base_url=server.http, trust_env=False) as client:
                async with asyncio.timeout(within(5)):
                    while (await client.get("/readyz")).status_code != 503:  # noqa: ASYNC110 - no event
                        await asyncio.sleep(0.02)
            await refused_with(server, "draining", of("yul", "192.0.2.4"))

    async def alone() -> None:
        """The issuer's keys cannot be fetched: no verdict, and never a rejection."""
        keys = {"NARTHEX_JWT_SECRET": "", "NARTHEX_JWKS_URL": f"http://127.0.0.1:{free_port()}/jwks.json"}
        async with target(name, tmp_path / "alone", keys) as server:
            signed = issuer.rsa_key().as_pem(private=True)
            unknown = jwt.encode(
                {"sub": "zoe", "exp": time.time() + 600}, signed, algorithm="RS256", headers={"kid": "k"}
            )
            await refused_with(server, "auth_unavailable", bearer(unknown))
            assert server.reached == 0

    async def early() -> None:
        """The store does not answer: the server keeps trying, and admits nobody meanwhile."""
        url = {"NARTHEX_STORE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none"}
        async with target(name, tmp_path / "early", url, ready=False) as server:
            await refused_with(server, "starting", bearer(token()))
            assert server.reached == 0

    await asyncio.gather(full(), alone())
    await early()


@pytest.mark.parametrize(
    ("name", "in_band"),
    [
        pytest.param(GATEWAY, "", id="gateway"),
        pytest.param(LIGHT, "", id="guard"),
        pytest.param(LIGHT, "1", id="guard with in-band proof"),
        *(
            pytest.param(f"{server}/starlette", in_band, id=f"{server} {in_band}", marks=pytest.mark.soak)
            for server in SERVERS
            for in_band in ("", "1")
            if f"{server}/starlette" != LIGHT
        ),
    ],
)
async def test_environments(name: str, in_band: str, tmp_path: Path) -> None:
    """Every row of the table: who gets in, and that health says so. Without in-band proof no row upgrades nothing."""

    async def check(case: str, row: Row) -> None:
        directory = tmp_path / case
        directory.mkdir()
        extra = {"NARTHEX_TEST_IN_BAND": in_band} if in_band else {}
        async with target(name, directory, row.environ | extra) as server:
            required = row.required or not server.inert
            async with httpx2.AsyncClient(base_url=server.http, trust_env=False) as client:
                health = (await client.get("/ws/health")).json()
            assert health["config"]["pre_connection_auth_required"] is required, case
            assert health["e2e_testing"]["auth_bypass_active"] is row.bypass, case
            for headers, expected in (
                ({}, row.nothing if required else "upgraded"),
                ({"X-E2E-Bypass-Key": "wrong-key-0123456789abcdefghijklmnop"}, row.wrong_key),
            ):
                assert await server.outcome(headers) == expected, (case, headers)
            assert server.reached == 0
            assert await server.outcome({"X-E2E-Bypass-Key": KEY}) == row.key, case
            assert await server.outcome(bearer(token())) == row.user, case

    cases = list(ROWS.items())
    for first in range(0, len(cases), 2):
        await asyncio.gather(*(check(case, row) for case, row in cases[first : first + 2]))
