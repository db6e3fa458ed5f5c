"""The auth service dead, hung, slow, then back: which tokens are admitted, which get 503 how soon, and recovery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable

import pytest
from joserfc.jwk import RSAKey

from narthex.adapters.tokens.breaker import BreakerBoard
from narthex.adapters.tokens.fetching import Fetcher
from narthex.adapters.tokens.introspection import Introspection
from narthex.adapters.tokens.jwks import JwksKeys, constant_address
from narthex.adapters.tokens.router import TokenRouter
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from tests.adapters.tokens.http_issuer import HttpIssuer
from tests.adapters.tokens.issuer import NOW, rsa_key, rules, token
from tests.adapters.tokens.meters import StateMeter
from tests.fault_proxy import FaultProxy, Mode
from tests.timing import within

JWKS = "/jwks.json"
INTROSPECT = "/introspect"


class Outage:
    """An issuer behind a proxy that fails, and a router that needs it for JWTs and for opaque tokens."""

    def __init__(self, issuer: HttpIssuer, proxy: FaultProxy) -> None:
        self.issuer = issuer
        self.proxy = proxy
        self.fetcher = Fetcher()
        self.meter = StateMeter()
        self.breakers = BreakerBoard(self.meter, self.meter.changes.append)
        self.keys = JwksKeys(
            "issuer",
            constant_address(proxy.url + JWKS),
            rules(algorithms=("RS256",)),
            fetcher=self.fetcher,
            breakers=self.breakers,
        )
        self.opaque = Introspection(
            "issuer",
            proxy.url + INTROSPECT,
            ("id", "secret"),
            rules().claims,
            fetcher=self.fetcher,
            breakers=self.breakers,
        )
        self.router = TokenRouter([self.keys], opaque=self.opaque)

    def publish(self, *keys: RSAKey) -> None:
        """The issuer's key set."""
        self.issuer.documents[JWKS] = {"keys": [key.as_dict(private=False) for key in keys]}

    async def verdict(self, text: str, traffic: str = "user") -> tuple[Verdict, float]:
        """The verdict and how long it took, in seconds."""
        began = time.monotonic()
        outcome = self.router.verify(text, now=NOW, traffic=traffic)
        return await settled(outcome), time.monotonic() - began


async def settled(outcome: Verdict | Awaitable[Verdict]) -> Verdict:
    """The verdict, waited for if need be."""
    return outcome if isinstance(outcome, Valid | Rejected | Unavailable) else await outcome


@pytest.fixture
async def outage() -> AsyncIterator[Outage]:
    """Everything up, keys fetched."""
    async with HttpIssuer() as issuer, FaultProxy(issuer.port) as proxy:
        found = Outage(issuer, proxy)
        found.publish(rsa_key(1))
        active = {"active": True, "sub": "alice", "aud": "narthex-tests", "exp": NOW + 600}
        issuer.documents[INTROSPECT] = active
        await found.router.start()
        yield found
        await found.router.stop()
        await found.fetcher.stop()


CACHED = token(rsa_key(1), "RS256")
UNKNOWN = token(rsa_key(2), "RS256")


@pytest.mark.parametrize("mode", ["dead", "hung", "reset"])
async def test_cached_keys_admit_and_the_others_hear_503_within_two_seconds(
    outage: Outage, mode: Mode
) -> None:
    """While it is down: known keys verify at once, everything else is `Unavailable` in time, repeatedly."""
    await outage.proxy.set(mode)
    for _ in range(8):
        verdict, took = await outage.verdict(CACHED)
        assert isinstance(verdict, Valid)
        assert took < within(0.1)
        for text in (UNKNOWN, "opaque-token-0123456789"):
            verdict, took = await outage.verdict(text)
            assert isinstance(verdict, Unavailable), verdict
            assert verdict.retry_after_s >= 1
            assert took < within(2)


async def test_it_is_used_again_within_ten_seconds(outage: Outage) -> None:
    """Back after an outage that opened the breakers: new keys and opaque tokens are admitted soon, automatically."""
    await outage.proxy.set("dead")
    while "open" not in outage.breakers.states(outage.opaque.dependency).values():
        await outage.verdict("opaque-token-0123456789")
    outage.publish(rsa_key(2))
    await outage.proxy.set("pass")
    back_at = time.monotonic()
    waiting = {UNKNOWN, "opaque-token-0123456789"}
    while waiting:
        assert time.monotonic() - back_at < within(10), waiting
        for text in tuple(waiting):
            if isinstance((await outage.verdict(text))[0], Valid):
                waiting.discard(text)
        await asyncio.sleep(0.1)  # as often as an impatient client comes back
    assert (await outage.router.check()).status == "healthy"


async def test_a_slow_issuer_is_not_waited_for_and_not_forgotten(outage: Outage) -> None:
    """An answer that takes 3 s serves the next client instead of delaying this one."""
    outage.publish(rsa_key(1), rsa_key(2))
    outage.proxy.delay_s = 3.0
    await outage.proxy.set("slow")
    verdict, took = await outage.verdict(UNKNOWN)
    assert isinstance(verdict, Unavailable)
    assert took < within(2)
    began = time.monotonic()
    while not isinstance((await outage.verdict(UNKNOWN))[0], Valid):
        assert time.monotonic() - began < within(10)
        await asyncio.sleep(0.1)  # as often as an impatient client comes back


async def test_test_traffic_failing_leaves_users_alone(outage: Outage) -> None:
    """Only the e2e partition opens; a user's token is still verified once the issuer is back."""
    await outage.proxy.set("dead")
    while outage.breakers.states(outage.opaque.dependency).get("e2e") != "open":
        await outage.verdict("opaque-of-a-test-01", traffic="e2e")
    assert outage.breakers.get(outage.opaque.dependency, "user").state == "closed"
    await outage.proxy.set("pass")
    assert isinstance((await outage.verdict("opaque-of-a-user-01"))[0], Valid)
    assert isinstance((await outage.verdict("opaque-of-a-test-01", traffic="e2e"))[0], Unavailable)


async def test_five_thousand_bad_tokens_open_nothing(outage: Outage) -> None:
    """Rejections are successes: every breaker stays closed, and good tokens are admitted throughout."""
    outage.issuer.documents[INTROSPECT] = {"active": False}
    bad = [
        CACHED[:-4] + "AAAA",
        token(rsa_key(1), "RS256", exp=1),
        token(rsa_key(2), "RS256", {"kid": "x"}),
        "a.b.c",
    ]
    admitted = 0
    for number in range(5_000):
        await outage.verdict(bad[number % 4] if number % 50 else f"opaque-{number:012}")
        if number % 10 == 0:
            admitted += isinstance((await outage.verdict(CACHED))[0], Valid)
    assert admitted == 500
    states = {
        **outage.breakers.states(outage.keys.dependency),
        **outage.breakers.states(outage.opaque.dependency),
    }
    assert set(states.values()) == {"closed"}
