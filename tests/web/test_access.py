"""`narthex.web.access`: the admin key, tokens of services, and the token of scrapers."""

from __future__ import annotations

import asyncio

import pytest
from starlette.requests import Request

from narthex.app.attempts import WRONG_KEYS, WRONG_KEYS_WINDOW_S
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.web.access import Access, Operator

ADMIN = "the-admin-key-0123456789"
SCRAPER = "the-scraper-token-0123456789"
SERVICE = Identity(subject="svc", tenant="acme", permissions=("admin",))


def asks(sent: str | bytes = "", address: str = "1.2.3.4") -> Request:
    """A request with this Bearer token."""
    raw = sent if isinstance(sent, bytes) else sent.encode()
    headers = [(b"authorization", b"Bearer " + raw)] if raw else []
    return Request({"type": "http", "headers": headers, "client": (address, 1), "method": "GET", "path": "/"})


class Desk:
    """An Access with a clock that the test moves."""

    def __init__(
        self,
        keys: tuple[str, ...] = (ADMIN,),
        metrics_tokens: tuple[str, ...] = (),
        trusted: tuple[str, ...] = (),
    ) -> None:
        self.now = 0.0
        self.opaque: dict[str, Identity | Refusal] = {}
        self.asked: list[str] = []
        self.delay_s = 0.0  # of an answer of the issuer

        async def person(request: Request) -> Identity | Refusal:
            sent = request.headers.get("authorization", "").removeprefix("Bearer ")
            self.asked.append(sent)
            await asyncio.sleep(self.delay_s)
            if sent == "a.b.c":
                return SERVICE
            return self.opaque.get(sent, Refusal(code="token_malformed" if sent else "auth_required"))

        def address(request: Request) -> str:
            assert request.client is not None
            return request.client.host

        self.access = Access(
            keys,
            person,
            address,
            lambda: self.now,
            metrics_tokens=metrics_tokens,
            trusted_scraper=lambda request: address(request) in trusted,
        )

    async def told(self, sent: str | bytes = "", address: str = "1.2.3.4") -> str:
        """The refusal's code, or the operator's id."""
        found = await self.access.administrator(asks(sent, address))
        return found.name if isinstance(found, Operator) else found.code

    def scrape(self, sent: str | bytes = "", address: str = "1.2.3.4") -> str:
        """The refusal's code; empty: admitted."""
        refusal = self.access.scraper(asks(sent, address))
        return refusal.code if refusal else ""


async def test_the_admin_key_and_a_service_administer() -> None:
    """The key for every tenant, the token for its own."""
    desk = Desk()
    assert await desk.access.administrator(asks(ADMIN)) == Operator(None, "admin key")
    assert await desk.access.administrator(asks("a.b.c")) == Operator("acme", "svc")
    assert await desk.told() == "auth_required"
    assert await desk.told("wrong") == "token_invalid"


async def test_a_tenants_administrator_is_not_the_operator() -> None:
    """Actions on all tenants need the permission by name, and a test identity never has it."""
    desk = Desk()
    rights = ("admin", "operator")
    desk.opaque = {
        "operator": Identity(subject="op", tenant="acme", permissions=("operator",)),
        "tester": Identity(subject="t", tenant="e2e", e2e=True, permissions=rights),
    }

    async def operates(sent: str) -> str:
        found = await desk.access.operator(asks(sent))
        return found.name if isinstance(found, Operator) else found.code

    assert await operates(ADMIN) == "admin key"
    assert await operates("operator") == "op"
    assert await operates("a.b.c") == "permission_denied"
    assert await operates("tester") == "permission_denied"
    assert await desk.told("operator") == "permission_denied"  # an operator administers no tenant by that


async def test_a_service_with_an_opaque_token_administers() -> None:
    """As with a JWT of the same permissions, and however often; the admin key itself is sent to no issuer."""
    desk = Desk()
    desk.opaque = {"opaque": SERVICE, "reader": Identity(subject="r", permissions=("chat",))}
    for _ in range(3 * WRONG_KEYS):
        assert await desk.access.administrator(asks("opaque")) == Operator("acme", "svc")
    assert await desk.told("reader") == "permission_denied"
    assert await desk.told(ADMIN) == "admin key"
    assert ADMIN not in desk.asked


async def test_keys_cannot_be_guessed_while_an_issuer_of_opaque_tokens_is_away_or_says_no() -> None:
    """Each guess counts, whatever the issuer answers, and one past the limit is not even sent to it."""
    for code in ("auth_unavailable", "token_invalid"):
        desk = Desk()
        guesses = [f"guess-{number}" for number in range(WRONG_KEYS + 1)]
        desk.opaque = {guess: Refusal(code=code) for guess in guesses}
        told = [await desk.told(guess) for guess in guesses]
        assert told == [code] * WRONG_KEYS + ["rate_limited"]
        assert desk.asked == guesses[:-1]
        assert await desk.told(ADMIN) == "rate_limited"


async def test_many_calls_of_services_at_once_are_no_guesses() -> None:
    """A service's parallel calls, and several services behind one address: none is refused and none stays counted."""
    desk = Desk()
    tokens = [f"service-{number % 15}" for number in range(4 * WRONG_KEYS)]
    desk.opaque = dict.fromkeys(tokens, SERVICE)
    desk.delay_s = 0.001
    for _ in range(2):
        found = await asyncio.gather(*(desk.told(token) for token in tokens), desk.told(ADMIN))
        assert found == ["svc"] * len(tokens) + ["admin key"]


async def test_parallel_guesses_are_judged_up_to_the_limit() -> None:
    """However slow the issuer is: no guess beyond the limit is compared or sent to it."""
    desk = Desk()
    guesses = [f"guess-{number}" for number in range(4 * WRONG_KEYS)]
    desk.opaque = {guess: Refusal(code="token_invalid") for guess in guesses}
    desk.delay_s = 0.001
    found = await asyncio.gather(*(desk.told(guess) for guess in guesses))
    assert sorted(found) == ["rate_limited"] * 3 * WRONG_KEYS + ["token_invalid"] * WRONG_KEYS
    assert len(desk.asked) == WRONG_KEYS


async def test_a_key_beyond_ascii_is_the_key() -> None:
    """Headers come as latin-1 text of the bytes that were typed."""
    desk = Desk(("schlüssel-der-verwaltung",))
    assert await desk.told("schlüssel-der-verwaltung".encode()) == "admin key"
    assert await desk.told(b"\xff\xfe") == "token_invalid"


async def test_no_key_admits_nobody() -> None:
    """An unset key does not match an empty one."""
    desk = Desk(())
    assert await desk.told("anything") == "token_invalid"
    assert await desk.told() == "auth_required"


async def test_wrong_keys_slow_their_household_down() -> None:
    """An IPv6 /64 is one address; a service's token is verified all the same; the window ends."""
    desk = Desk()
    for number in range(WRONG_KEYS):
        assert await desk.told("wrong", f"2001:db8::{number + 1:x}") == "token_invalid"
    assert await desk.told(ADMIN, "2001:db8::ffff") == "rate_limited"
    assert await desk.told("a.b.c", "2001:db8::ffff") == "svc"
    assert await desk.told(ADMIN, "2001:db8:0:1::1") == "admin key"
    desk.now = WRONG_KEYS_WINDOW_S
    assert await desk.told(ADMIN, "2001:db8::ffff") == "admin key"


def test_metrics_are_for_trusted_scrapers_and_tokens() -> None:
    """A trusted scraper needs no token, and a wrong one does not harm it; any other client is refused."""
    desk = Desk(trusted=("10.0.0.9",))
    assert desk.scrape(address="10.0.0.9") == ""
    assert desk.scrape("stale", address="10.0.0.9") == ""
    assert desk.scrape() == "auth_required"
    assert desk.scrape("anything") == "token_invalid"


@pytest.mark.parametrize("sent", [SCRAPER, ADMIN])
def test_a_scraper_brings_its_token_or_the_admin_key(sent: str) -> None:
    """With a token set, no other client reads the numbers."""
    desk = Desk(metrics_tokens=(SCRAPER,))
    assert desk.scrape(sent) == ""
    assert desk.scrape() == "auth_required"
    assert desk.scrape("wrong") == "token_invalid"


async def test_a_scraper_with_a_stale_token_locks_no_operator_out() -> None:
    """It asks every few seconds, possibly from the operator's own address."""
    desk = Desk(metrics_tokens=(SCRAPER,))
    for _ in range(WRONG_KEYS + 1):
        desk.scrape("stale")
    assert desk.scrape(SCRAPER) == "rate_limited"
    assert await desk.told(ADMIN) == "admin key"


async def test_the_token_of_scrapers_opens_nothing_else() -> None:
    """It is not an admin key."""
    assert await Desk(metrics_tokens=(SCRAPER,)).told(SCRAPER) == "token_invalid"
