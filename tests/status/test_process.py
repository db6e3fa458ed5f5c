"""`narthex status serve` without a store: operators by the admin key and by tokens of issuers; renewed tokens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from narthex.adapters.tokens.router import TokenRouter
from narthex.settings import load
from narthex.status.process import make_process
from narthex.testing.issuer import Issuer
from narthex.web.rates import ADDRESS_SHARE
from narthex.wiring.server_process import open_listeners
from tests.acceptance.program import Program
from tests.timing import within

INCIDENT = {"title": "Answers begin late", "text": "We look into it."}
FIRST, SECOND = "status-token-of-the-tests-01", "status-token-of-the-tests-02"


@asynccontextmanager
async def serving(directory: Path, **environ: str) -> AsyncIterator[httpx2.AsyncClient]:
    """A status service with these variables; a client of it."""
    settings = load({"data_dir": directory, "port": 0}, {"ENVIRONMENT": "testing"} | environ, parts=())
    process = make_process(settings, open_listeners(settings), lambda _url: None)
    async with (
        process.running() as url,
        httpx2.AsyncClient(base_url=url, trust_env=False, timeout=within(10)) as client,
    ):
        yield client


async def opened(client: httpx2.AsyncClient, token: str) -> tuple[int, dict[str, Any]]:
    """Open an incident with this credential."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    answer = await client.post("/api/v1/incidents", json=INCIDENT, headers=headers)
    return answer.status_code, answer.json()


async def test_an_operators_token_changes_incidents(tmp_path: Path) -> None:
    """By the permission that its issuer may give; the change names its operator; other users change nothing."""
    issuer = Issuer()
    async with serving(tmp_path, **issuer.environ, NARTHEX_JWT_PERMISSIONS_ALLOWED="operator,chat") as client:
        assert (await opened(client, issuer.valid("olga", permissions=["operator"])))[0] == 200
        assert (await opened(client, issuer.environ["NARTHEX_ADMIN_KEY"]))[0] == 200
        changes = await client.get(
            "/api/v1/incidents/changes",
            headers={"Authorization": f"Bearer {issuer.valid('olga', permissions=['operator'])}"},
        )
        assert [change["actor"] for change in changes.json()["changes"]] == ["admin key", "olga"]
        for token, status, code in (
            (issuer.valid("ada"), 403, "permission_denied"),
            (issuer.expired("olga", permissions=["operator"]), 401, "token_expired"),
            (issuer.forged("olga", permissions=["operator"]), 401, "token_invalid"),
            (Issuer(url="https://other.test").valid("olga", permissions=["operator"]), 401, "wrong_issuer"),
            ("no-such-key-0123456789", 401, "token_invalid"),
            ("", 401, "auth_required"),
        ):
            found, problem = await opened(client, token)
            assert (found, problem["code"]) == (status, code)
            assert problem["remedy"]


async def test_without_an_issuer_only_the_admin_key_counts(tmp_path: Path) -> None:
    """No token is trusted that nobody vouches for."""
    async with serving(tmp_path, NARTHEX_ADMIN_KEY="admin-key-of-the-tests-0001") as client:
        token = Issuer().valid("olga", permissions=["operator"])
        status, problem = await opened(client, token)
        assert (status, problem["code"]) == (401, "wrong_issuer")
        assert (await opened(client, "admin-key-of-the-tests-0001"))[0] == 200


async def test_an_issuer_that_is_away_takes_nothing_from_the_page(tmp_path: Path) -> None:
    """The page and the admin key work; a token is answered with 503 and not as a wrong one."""
    async with serving(
        tmp_path,
        NARTHEX_JWKS_URL="http://127.0.0.1:9/jwks.json",
        NARTHEX_JWT_ISSUER="https://issuer.test",
        NARTHEX_JWT_TENANT="default",
        NARTHEX_ADMIN_KEY="admin-key-of-the-tests-0001",
    ) as client:
        assert (await client.get("/status")).status_code == 200
        assert (await client.get("/readyz")).status_code == 200
        assert (await opened(client, "admin-key-of-the-tests-0001"))[0] == 200
        status, problem = await opened(client, Issuer().valid("olga", permissions=["operator"]))
        assert (status, problem["code"]) == (503, "auth_unavailable")


async def test_requests_of_one_address_are_limited_before_their_tokens_are_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at a gateway: signatures cost CPU, and anybody can send forged ones; probes are never refused."""
    verified: list[str] = []
    verify = TokenRouter.verify

    def counted(self: TokenRouter, token: str, *, now: float, traffic: str) -> Any:
        verified.append(token)
        return verify(self, token, now=now, traffic=traffic)

    monkeypatch.setattr(TokenRouter, "verify", counted)
    issuer = Issuer()
    limits = {"NARTHEX_HTTP_REQUESTS_PER_S": "1", "NARTHEX_HTTP_REQUESTS_BURST": "1"}
    async with serving(tmp_path, **issuer.environ, **limits) as client:
        forged = issuer.forged("olga", permissions=["operator"])
        found = [await opened(client, forged) for _ in range(ADDRESS_SHARE * 6)]
        codes = [problem["code"] for _, problem in found]
        assert set(codes) == {"token_invalid", "rate_limited"}
        assert len(verified) == codes.count("token_invalid")
        for path in ("/livez", "/readyz"):
            assert [(await client.get(path)).status_code for _ in range(ADDRESS_SHARE * 2)] == [200] * (
                ADDRESS_SHARE * 2
            )


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    """The status token where both ends read it."""
    file = tmp_path / "status-token"
    file.write_text(FIRST)
    return file


async def test_a_renewed_status_token_counts_at_both_ends(tmp_path: Path, token_file: Path) -> None:
    """Over HTTP: the service takes the new token and not the old one, and the gateway's samples go on with it."""
    (tmp_path / "service").mkdir()
    (tmp_path / "gateway").mkdir()
    renewed = {"NARTHEX_STATUS_TOKEN_FILE": str(token_file), "NARTHEX_SECRETS_REFRESH_S": "0.2"}

    gateway = Program(tmp_path / "gateway", renewed)

    async def reported(client: httpx2.AsyncClient, token: str) -> int:
        sample = {"component": "connect", "kind": "probe", "source": "eu", "good": 1, "every_s": 1}
        headers = {"Authorization": f"Bearer {token}"}
        answer = await client.post("/api/v1/status/samples", json={"samples": [sample]}, headers=headers)
        return answer.status_code

    async def measured_after(client: httpx2.AsyncClient, moment: str) -> bool:
        found = (await client.get("/status.json")).json()["components"]
        return all((one["measured_at"] or "") > moment for one in found if one["id"] == "sign_in")

    async with serving(tmp_path / "service", **renewed) as service:
        gateway.env["NARTHEX_STATUS_URL"] = str(service.base_url)
        try:
            await gateway.start()
            await until(lambda: measured_after(service, ""))
            assert await reported(service, FIRST) == 200
            await asyncio.to_thread(token_file.write_text, SECOND)

            async def renewal() -> bool:
                return await reported(service, SECOND) == 200

            await until(renewal)
            assert await reported(service, FIRST) == 401
            await asyncio.sleep(1.0)  # samples that were sent with the old token before have come
            moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            await until(lambda: measured_after(service, moment))
        finally:
            await asyncio.to_thread(gateway.end)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Ask until it holds."""
    async with asyncio.timeout(within(30)):
        while not await holds():  # noqa: ASYNC110 - it asks another process
            await asyncio.sleep(0.1)
