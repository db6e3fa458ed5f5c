"""RFC 7662: the requests, the trust in answers, and how long they are cached."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable
from typing import Any
from urllib.parse import parse_qs

import pytest

from narthex.adapters.tokens import introspection
from narthex.adapters.tokens.breaker import BreakerBoard
from narthex.adapters.tokens.claims import ClaimRules
from narthex.adapters.tokens.fetching import Fetcher
from narthex.adapters.tokens.introspection import MAX_KEPT, NO_EXPIRY_LIFE_S, POSITIVE_S, Introspection
from narthex.adapters.tokens.router import TokenRouter
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.ports.tokens import MAX_TOKEN_BYTES
from tests.adapters.tokens.http_issuer import HttpIssuer
from tests.adapters.tokens.issuer import NOW, hs_token
from tests.adapters.tokens.meters import StateMeter

TOKEN = "2YotnFZFEjr1zCsicMWpAA"
PATH = "/introspect"


class Rig:
    """An introspection end point and a router that asks it."""

    def __init__(self, issuer: HttpIssuer, fetcher: Fetcher, rules: ClaimRules) -> None:
        self.issuer = issuer
        self.meter = StateMeter()
        self.breakers = BreakerBoard(self.meter, self.meter.changes.append)
        self.faults: list[tuple[str, str]] = []
        self.source = Introspection(
            "test",
            issuer.url + PATH,
            ("me", "s3cret"),
            rules,
            fetcher=fetcher,
            breakers=self.breakers,
            on_fault=lambda name, fault: self.faults.append((name, fault.message)),
        )
        self.router = TokenRouter([], opaque=self.source)

    async def verdict(self, text: str = TOKEN, now: float = NOW) -> Verdict:
        """The router's verdict, waited for."""
        outcome: Verdict | Awaitable[Verdict] = self.router.verify(text, now=now, traffic="user")
        return outcome if isinstance(outcome, Valid | Rejected | Unavailable) else await outcome

    def says(self, **answer: Any) -> None:
        """The end point's answer."""
        self.issuer.documents[PATH] = answer


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """With an issuer that must be named."""
    async with HttpIssuer() as issuer:
        fetcher = Fetcher(timeout_s=2)
        yield Rig(issuer, fetcher, ClaimRules(issuer="https://as.example"))
        await fetcher.stop()


async def test_an_active_token_admits_with_what_the_answer_says(rig: Rig) -> None:
    """Claims are mapped as those of a JWT; `scope` gives permissions; the caller authenticates with Basic."""
    seen: list[tuple[str, bytes]] = []

    def answer(head: str, body: bytes) -> tuple[int, Any]:
        seen.append((head, body))
        return 200, {
            "active": True,
            "sub": "alice",
            "scope": "chat admin",
            "exp": NOW + 60,
            "tenant": "acme",
            "aud": "x",
        }

    rig.issuer.documents[PATH] = answer
    verdict = await rig.verdict()
    assert isinstance(verdict, Valid)
    identity = verdict.identity
    assert (identity.user, identity.permissions, identity.issuer) == (
        "acme/alice",
        ("chat", "admin"),
        "https://as.example",
    )
    head, body = seen[0]
    assert parse_qs(body.decode())["token"] == [TOKEN]
    assert base64.b64encode(b"me:s3cret").decode() in head


async def test_a_yes_is_remembered_briefly_and_never_beyond_exp(rig: Rig) -> None:
    """Within ten seconds no request is repeated; the token's end is a limit of its own."""
    rig.says(active=True, sub="alice", exp=NOW + 4)
    assert isinstance(await rig.verdict(), Valid)
    outcome = rig.router.verify(TOKEN, now=NOW + 3, traffic="user")
    assert isinstance(outcome, Valid), "from memory, without waiting"
    assert rig.issuer.hits[PATH] == 1
    await rig.verdict(now=NOW + 5)
    assert rig.issuer.hits[PATH] == 2
    rig.says(active=True, sub="alice", exp=NOW + 600)
    await rig.verdict(now=NOW + 5)
    await rig.verdict(now=NOW + 5 + POSITIVE_S + 1)
    assert rig.issuer.hits[PATH] == 4


async def test_a_no_is_final_and_not_remembered(rig: Rig) -> None:
    """Inactive is a rejection; the next request is made again, because a token may become active."""
    rig.says(active=False)
    verdict = await rig.verdict()
    assert isinstance(verdict, Rejected)
    assert verdict.code == "token_invalid"
    rig.says(active=True, sub="alice")
    verdict = await rig.verdict()
    assert isinstance(verdict, Valid)
    assert verdict.identity.expires_at == NOW + NO_EXPIRY_LIFE_S


@pytest.mark.parametrize(
    "answer",
    [{}, {"active": "true"}, {"active": 1}, [], (401, {}), (404, {}), (500, {}), (429, {}), b"<html>"],
)
async def test_an_answer_that_says_nothing_is_no_verdict(rig: Rig, answer: Any) -> None:
    """Broken answers, our own refused credentials and outages all mean "cannot tell"."""
    rig.issuer.documents[PATH] = answer
    verdict = await rig.verdict()
    assert isinstance(verdict, Unavailable)
    assert [f"{name}: {message}" for name, message in rig.faults] == [verdict.cause]
    assert (await rig.source.check()).status == "degraded"
    rig.says(active=True, sub="alice")
    assert isinstance(await rig.verdict(), Valid)


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"iss": "https://evil.example"}, "wrong_issuer"),
        ({"exp": NOW - 60}, "token_expired"),
        ({"nbf": NOW + 60}, "token_not_yet_valid"),
        ({"sub": None}, "token_invalid"),
        ({"tenant": "e2e"}, "tenant_mismatch"),
        ({"e2e": True}, "e2e_not_allowed_here"),
    ],
)
async def test_an_active_token_still_meets_the_rules(rig: Rig, answer: dict[str, Any], code: str) -> None:
    """The issuer's confirmation does not bypass the rules of claims."""
    rig.says(**{"active": True, "sub": "alice", "exp": NOW + 60, **answer})
    verdict = await rig.verdict()
    assert isinstance(verdict, Rejected)
    assert verdict.code == code


async def test_junk_is_refused_without_asking(rig: Rig) -> None:
    """Too long, empty or unprintable: no request is sent."""
    for junk in ("x" * 9_000, "", "a b\nc", "tökén"):
        verdict = await rig.verdict(junk)
        assert isinstance(verdict, Rejected)
        assert verdict.code == "token_malformed"
    assert not rig.issuer.hits


async def test_a_jwt_that_no_key_source_claims_is_asked_about_too(rig: Rig) -> None:
    """Introspection accepts any kind of token; the reserved issuer of test identities is not asked about."""
    rig.says(active=True, sub="alice")
    assert isinstance(await rig.verdict(hs_token()), Valid)
    verdict = await rig.verdict(hs_token(iss="narthex-e2e"))
    assert isinstance(verdict, Rejected)
    assert verdict.code == "e2e_not_allowed_here"


async def test_health_asks_for_itself(rig: Rig) -> None:
    """Never healthy without a request; an answer counts for half a minute; an outage shows, and its end too."""
    assert (await rig.source.check()).status == "degraded"  # 404: nothing there yet
    rig.says(active=False)
    assert (await rig.source.check()).status == "healthy"
    asked = rig.issuer.hits[PATH]
    assert (await rig.source.check()).status == "healthy"
    assert rig.issuer.hits[PATH] == asked
    rig.issuer.documents[PATH] = (500, {})
    assert isinstance(await rig.verdict(), Unavailable)
    assert (await rig.source.check()).status == "degraded"
    rig.says(active=False)
    assert (await rig.source.check()).status == "healthy"


async def test_memory_is_bounded_and_holds_no_token(rig: Rig) -> None:
    """The oldest answers go; keys are hashes."""
    rig.says(active=True, sub="alice")
    await rig.verdict()
    assert TOKEN not in repr(rig.source._kept)
    for number in range(MAX_KEPT + 5):
        rig.source._read({"active": True, "sub": "a"}, f"hash-{number}", NOW)
    assert len(rig.source._kept) == MAX_KEPT


async def test_questions_are_bounded_and_counted_down_however_they_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one above the limit is told to retry; after answers, faults and time-outs requests are possible again."""
    monkeypatch.setattr(introspection, "MAX_AT_ONCE", 2)
    monkeypatch.setattr(introspection, "CLIENT_WAIT_S", 0.2)
    arrived, may = asyncio.Event(), asyncio.Event()

    async def hangs(url: str, fields: dict[str, str], client: object) -> Any:
        arrived.set()
        await may.wait()
        return {"active": False}

    with monkeypatch.context() as patch:
        patch.setattr(rig.source._fetcher, "post_form", hangs)
        first = asyncio.create_task(rig.verdict("one"))
        second = asyncio.create_task(rig.verdict("two"))
        await arrived.wait()
        await asyncio.sleep(0)
        third = await rig.verdict("three")
        assert isinstance(third, Unavailable) and "2 requests are in progress" in third.cause
        assert all(
            isinstance(verdict, Unavailable) for verdict in (await first, await second)
        )  # their time is up
        may.set()
    rig.issuer.documents[PATH] = (500, {})
    for _ in range(4):
        assert isinstance(await rig.verdict("broken"), Unavailable)
    assert rig.source._asking == 0


async def test_a_token_at_the_bound_is_asked_about_and_a_longer_one_is_not(rig: Rig) -> None:
    """8 KB, as for every token."""
    rig.says(active=True, sub="alice")
    assert isinstance(await rig.verdict("x" * MAX_TOKEN_BYTES), Valid)
    longer = rig.source.verify("x" * (MAX_TOKEN_BYTES + 1), now=NOW, traffic="user")
    assert isinstance(longer, Rejected) and longer.code == "token_malformed"
    assert rig.issuer.hits[PATH] == 1


async def test_the_longest_unasked_is_forgotten_first(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; a token whose answer was renewed is no longer the oldest."""
    assert MAX_KEPT == 10_000
    monkeypatch.setattr(introspection, "MAX_KEPT", 2)
    rig.says(active=True, sub="alice")
    for text, now in (
        ("one", NOW),
        ("two", NOW),
        ("one", NOW + POSITIVE_S + 1),
        ("three", NOW + POSITIVE_S + 1),
    ):
        assert isinstance(await rig.verdict(text, now), Valid)
    asked = rig.issuer.hits[PATH]
    assert isinstance(await rig.verdict("one", NOW + POSITIVE_S + 2), Valid)
    assert rig.issuer.hits[PATH] == asked, "kept"
    assert isinstance(await rig.verdict("two", NOW), Valid)
    assert rig.issuer.hits[PATH] == asked + 1, "forgotten"
