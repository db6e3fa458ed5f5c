"""Key sets over HTTP: cache, single flight, cool-down, rotation, staleness, and refused answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import pytest
from joserfc.jwk import RSAKey

from narthex.adapters.tokens import jwks
from narthex.adapters.tokens.breaker import STREAK, BreakerBoard
from narthex.adapters.tokens.claims import ClaimRules
from narthex.adapters.tokens.fetching import MAX_DOCUMENT_BYTES, DocumentFault, Fetcher
from narthex.adapters.tokens.jwks import STALE_S, UNKNOWN_KEY_COOL_DOWN_S, JwksKeys, constant_address
from narthex.adapters.tokens.oidc import Discovery
from narthex.adapters.tokens.router import TokenRouter
from narthex.adapters.tokens.verification import IssuerRules
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import DependencyError
from tests.adapters.tokens.http_issuer import HttpIssuer
from tests.adapters.tokens.issuer import ISSUER, NOW, hmac_key, raw_token, rsa_key, rules, token
from tests.adapters.tokens.meters import StateMeter
from tests.timing import within

JWKS = "/jwks.json"


class Monotonic:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """One issuer over HTTP and a router that trusts it."""

    def __init__(self, issuer: HttpIssuer, fetcher: Fetcher) -> None:
        self.issuer = issuer
        self.fetcher = fetcher
        self.clock = Monotonic()
        self.meter = StateMeter()
        self.breakers = BreakerBoard(self.meter, self.meter.changes.append)
        self.faults: list[str] = []
        self.keys = self.source()
        self.router = TokenRouter([self.keys])

    def source(self, name: str = "test", issuer: str = ISSUER) -> JwksKeys:
        """A key source that fetches from the issuer."""
        return JwksKeys(
            name,
            constant_address(self.issuer.url + JWKS),
            rules(issuer=issuer, algorithms=("RS256", "ES256")),
            fetcher=self.fetcher,
            breakers=self.breakers,
            clock=self.clock,
            on_fault=lambda _, fault: self.faults.append(fault.message),
        )

    def publish(self, *keys: RSAKey, **extra: Any) -> None:
        """Change what the issuer publishes."""
        self.issuer.documents[JWKS] = {"keys": [key.as_dict(private=False) for key in keys], **extra}

    @property
    def fetches(self) -> int:
        """The number of requests for the key set."""
        return self.issuer.hits[JWKS]

    async def verdict(self, text: str, traffic: str = "user") -> Verdict:
        """The router's verdict, awaited."""
        return await settled(self.router.verify(text, now=NOW, traffic=traffic))


async def settled(outcome: Verdict | Awaitable[Verdict]) -> Verdict:
    """The verdict, awaited if necessary."""
    return outcome if isinstance(outcome, Valid | Rejected | Unavailable) else await outcome


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """An issuer that publishes one key."""
    async with HttpIssuer() as issuer:
        fetcher = Fetcher(timeout_s=2)
        found = Rig(issuer, fetcher)
        found.publish(rsa_key(1))
        yield found
        await found.keys.stop()
        await fetcher.stop()


async def test_after_the_start_no_token_waits(rig: Rig) -> None:
    """The first fetch happens at the start; then verdicts are plain values."""
    await rig.keys.start()
    outcome = rig.router.verify(token(rsa_key(1), "RS256"), now=NOW, traffic="user")
    assert isinstance(outcome, Valid)
    assert (outcome.key_id, outcome.algorithm) == ("rsa-1", "RS256")
    assert rig.fetches == 1
    assert (await rig.keys.check()).status == "healthy"


async def test_a_thousand_unknown_keys_cost_one_fetch(rig: Rig) -> None:
    """Together or one after the other: at most one fetch in 30 s, then `Unavailable` until they have passed."""
    await rig.keys.start()
    forged = [token(rsa_key(2), "RS256", {"kid": f"nobody-{n}"}) for n in range(20)]
    first = await asyncio.gather(*(rig.verdict(forged[n % 20]) for n in range(500)))
    assert {outcome.code for outcome in first if isinstance(outcome, Rejected)} == {"unknown_key"}
    later = [await rig.verdict(forged[n % 20]) for n in range(500)]
    assert all(isinstance(outcome, Unavailable) for outcome in later)
    assert rig.fetches == 2  # the start's, and one that they asked for
    assert isinstance(await rig.verdict(token(rsa_key(1), "RS256")), Valid)
    rig.clock.now += UNKNOWN_KEY_COOL_DOWN_S + 1
    assert isinstance(await rig.verdict(forged[0]), Rejected)
    assert rig.fetches == 3


async def test_a_rotation_needs_no_restart(rig: Rig) -> None:
    """A token of a later published key is admitted at its first attempt; the old key ends with its publication."""
    await rig.keys.start()
    rig.publish(rsa_key(2))
    assert isinstance(await rig.verdict(token(rsa_key(2), "RS256")), Valid)
    rig.clock.now += UNKNOWN_KEY_COOL_DOWN_S + 1
    outcome = await rig.verdict(token(rsa_key(1), "RS256"))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "unknown_key"


async def test_a_rotation_of_nameless_keys_needs_none_either(rig: Rig) -> None:
    """An issuer without `kid`s rotates: the set is asked for again before the signature is called bad."""
    nameless = {k: v for k, v in rsa_key(1).as_dict(private=False).items() if k != "kid"}
    rig.issuer.documents[JWKS] = {"keys": [nameless]}
    await rig.keys.start()
    from tests.adapters.tokens.issuer import claims

    def signed(key: RSAKey) -> str:
        return raw_token({"alg": "RS256"}, claims(), key, "RS256")

    assert isinstance(await rig.verdict(signed(rsa_key(1))), Valid)
    rig.issuer.documents[JWKS] = {
        "keys": [{k: v for k, v in rsa_key(2).as_dict(private=False).items() if k != "kid"}]
    }
    assert isinstance(await rig.verdict(signed(rsa_key(2))), Valid)
    # the set is fresh now: a token that fits none of its keys is bad, and costs no fetch
    fetches = rig.fetches
    for _ in range(100):
        outcome = await rig.verdict(signed(rsa_key(3)))
        assert isinstance(outcome, Rejected)
        assert outcome.code == "token_invalid"
    assert rig.fetches == fetches


async def test_keys_serve_on_for_a_day_without_their_issuer(rig: Rig) -> None:
    """Stale-if-error up to 24 h, shown as degraded; after that the verdict is unknown."""
    await rig.keys.start()
    rig.issuer.documents[JWKS] = (503, {})
    rig.clock.now += STALE_S - 60
    assert isinstance(await rig.verdict(token(rsa_key(1), "RS256")), Valid)
    assert isinstance(await rig.verdict(token(rsa_key(2), "RS256")), Unavailable)
    assert (await rig.keys.check()).status == "degraded"
    rig.clock.now += 120
    assert isinstance(await rig.verdict(token(rsa_key(1), "RS256")), Unavailable)


async def test_a_useless_answer_never_replaces_a_good_set(rig: Rig) -> None:
    """Empty, symmetric, foreign or broken sets leave the cached keys in place and are reported."""
    await rig.keys.start()
    secret = hmac_key().as_dict(private=True)
    answers: tuple[Any, ...] = (
        {"keys": []},
        {"keys": [secret]},
        {"keys": "none"},
        [],
        b"<html>",
        b'{"keys": ' + b"[" * 5000,
        {"keys": [rsa_key(1).as_dict(private=False)] * 101},
        (404, {}),
        (302, {}),
    )
    for useless in answers:
        rig.issuer.documents[JWKS] = useless
        rig.clock.now += UNKNOWN_KEY_COOL_DOWN_S + 1
        assert isinstance(await rig.verdict(token(rsa_key(2), "RS256")), Unavailable), useless
        assert isinstance(await rig.verdict(token(rsa_key(1), "RS256")), Valid), useless
    assert len(rig.faults) == 9
    # answers of no use are the configuration's fault, not an outage: the breaker is closed
    assert rig.breakers.states(rig.keys.dependency) == {"user": "closed"}


async def test_keys_that_are_not_understood_are_left_out(rig: Rig) -> None:
    """RFC 7517 section 5: a post-quantum or encryption key beside a good one is ignored."""
    strange = {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x", "kid": "pq"}
    encryption = {**rsa_key(2).as_dict(private=False), "use": "enc"}
    small = RSAKey.import_key(rsa_key(1).as_dict(private=False)).as_dict(private=False)
    rig.issuer.documents[JWKS] = {"keys": [strange, encryption, small, "nonsense"]}
    await rig.keys.start()
    assert isinstance(await rig.verdict(token(rsa_key(1), "RS256")), Valid)
    outcome = await rig.verdict(token(rsa_key(2), "RS256"))
    assert isinstance(outcome, Rejected)
    assert outcome.code == "unknown_key"
    assert any("left out" in fault for fault in rig.faults)


async def test_two_issuers_with_one_kid_do_not_mix(rig: Rig) -> None:
    """The cache belongs to an issuer: the same name may mean another key elsewhere."""
    async with HttpIssuer() as other:
        theirs = RSAKey.import_key({**rsa_key(2).as_dict(private=True), "kid": "rsa-1"})
        other.documents[JWKS] = {"keys": [theirs.as_dict(private=False)]}
        second = JwksKeys(
            "other",
            constant_address(other.url + JWKS),
            rules(issuer="https://other.example", algorithms=("RS256",)),
            fetcher=rig.fetcher,
            breakers=rig.breakers,
        )
        router = TokenRouter([rig.keys, second])
        await router.start()
        good = (token(rsa_key(1), "RS256"), token(theirs, "RS256", iss="https://other.example"))
        crossed = (token(theirs, "RS256"), token(rsa_key(1), "RS256", iss="https://other.example"))
        for text in good:
            assert isinstance(await settled(router.verify(text, now=NOW, traffic="user")), Valid)
        for text in crossed:
            outcome = await settled(router.verify(text, now=NOW, traffic="user"))
            assert isinstance(outcome, Rejected)
            assert outcome.code == "token_invalid"
        await router.stop()


async def test_a_redirect_is_not_followed(rig: Rig) -> None:
    """The issuer cannot send us to an address inside our network."""
    async with HttpIssuer() as inside:
        inside.documents["/secret"] = {"keys": [rsa_key(2).as_dict(private=False)]}
        rig.issuer.headers["Location"] = inside.url + "/secret"
        rig.issuer.documents[JWKS] = (302, {})
        assert isinstance(await rig.verdict(token(rsa_key(2), "RS256")), Unavailable)
        assert not inside.hits


async def test_an_endless_or_compressed_answer_is_cut(rig: Rig) -> None:
    """The limit on bytes is a limit on memory."""
    rig.issuer.documents["/big"] = b"[" + b" " * MAX_DOCUMENT_BYTES + b"]"
    with pytest.raises(DocumentFault, match="more than"):
        await rig.fetcher.get_json(rig.issuer.url + "/big")
    rig.issuer.headers["Content-Encoding"] = "gzip"
    rig.issuer.documents["/zip"] = b"x"
    with pytest.raises(DocumentFault, match="compressed"):
        await rig.fetcher.get_json(rig.issuer.url + "/zip")


async def test_no_answer_is_a_dependencys_fault_and_names_no_more_than_the_host(rig: Rig) -> None:
    """5xx, 429 and a refused connection; the error holds neither path nor query."""
    for status in (500, 502, 503, 429):
        rig.issuer.documents["/x"] = (status, {})
        with pytest.raises(DependencyError, match=str(status)):
            await rig.fetcher.get_json(rig.issuer.url + "/x?token=canary1234")
    with pytest.raises(DependencyError) as caught:
        await rig.fetcher.get_json("http://127.0.0.1:9/jwks?token=canary1234")
    assert "canary" not in str(caught.value)


async def test_cache_control_is_followed_within_bounds(rig: Rig) -> None:
    """An issuer may ask for a shorter or longer life, between a minute and an hour."""
    seen = []
    for header in ("max-age=5", "public, max-age=600", "max-age=999999", "no-cache"):
        rig.issuer.headers["Cache-Control"] = header
        _, control = await rig.fetcher.get_json(rig.issuer.url + JWKS)
        assert control == header
        source = rig.source(f"of {header}")
        await source._fetch()
        seen.append(source._refresh_s)
    assert seen == [60, 600, 3600, 300]


# -- discovery ---------------------------------------------------------------------------------------------


async def test_discovery_finds_the_key_set(rig: Rig) -> None:
    """`jwks_uri` of the issuer's own document; asked once an hour."""
    rig.issuer.documents["/.well-known/openid-configuration"] = {
        "issuer": rig.issuer.url,
        "jwks_uri": rig.issuer.url + JWKS,
    }
    discovery = Discovery(rig.issuer.url, rig.fetcher, clock=rig.clock)
    source = JwksKeys(
        "oidc",
        discovery.jwks_address,
        IssuerRules(claims=ClaimRules(issuer=rig.issuer.url), algorithms=frozenset({"RS256"})),
        fetcher=rig.fetcher,
        breakers=rig.breakers,
    )
    await source.start()
    outcome = await settled(
        TokenRouter([source]).verify(token(rsa_key(1), "RS256", iss=rig.issuer.url), now=NOW, traffic="user")
    )
    assert isinstance(outcome, Valid)
    await discovery.jwks_address()
    assert rig.issuer.hits["/.well-known/openid-configuration"] == 1
    rig.clock.now += 3_601
    await discovery.jwks_address()
    assert rig.issuer.hits["/.well-known/openid-configuration"] == 2
    await source.stop()


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({"issuer": "https://evil.example", "jwks_uri": "x"}, "different issuer"),
        ({"jwks_uri": "x"}, "different issuer"),
        ([], "not a JSON object"),
        ({"issuer": "SELF/", "jwks_uri": "x"}, "only the slash"),
        ({"issuer": "SELF"}, "jwks_uri"),
        ({"issuer": "SELF", "jwks_uri": "file:///etc/passwd"}, "jwks_uri"),
        ({"issuer": "SELF", "jwks_uri": "http://169.254.169.254/latest"}, "jwks_uri"),
        ({"issuer": "SELF", "jwks_uri": ["https://x.example"]}, "jwks_uri"),
    ],
)
async def test_a_discovery_document_that_is_not_the_issuers_own_is_refused(
    rig: Rig, document: Any, says: str
) -> None:
    """Another issuer's name, or an address less safe than the issuer's, is refused."""
    if isinstance(document, dict):
        document = {
            key: value.replace("SELF", rig.issuer.url) if isinstance(value, str) else value
            for key, value in document.items()
        }
    rig.issuer.documents["/.well-known/openid-configuration"] = document
    with pytest.raises(DocumentFault, match=says):
        await Discovery(rig.issuer.url, rig.fetcher).jwks_address()


async def test_the_start_waits_for_the_first_fetch_and_no_longer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It continues as soon as the fetch has ended, successful or not; not only when the longest wait is over."""
    monkeypatch.setattr(jwks, "CLIENT_WAIT_S", 3600.0)
    async with asyncio.timeout(within(10)):
        await rig.keys.start()
    await rig.keys.stop()


class Script:
    """Replaces the fetcher: each fetch ends with the next outcome, the last one for ever."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.fetches = 0

    async def get_json(self, url: str) -> tuple[Any, str]:
        """See `Fetcher`."""
        self.fetches += 1
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if outcome is not None:
            raise outcome
        return {"keys": [rsa_key(1).as_dict(private=False)]}, ""


async def test_the_refreshing_backs_off_and_outlives_a_bug(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 5 s after failures, with jitter; after a success a whole period, and the next failure is the first one."""
    pauses: list[tuple[float, float]] = []
    enough = asyncio.Event()

    def drawn(low: float, high: float) -> float:
        pauses.append((low, high))
        if len(pauses) == 6:
            enough.set()
        return 0.0

    monkeypatch.setattr("random.uniform", drawn)
    away = DependencyError("auth", "It is away.")
    script = Script(away, DocumentFault("no JSON"), RuntimeError("secret"), None, away, None)
    rig.keys._fetcher = script  # type: ignore[assignment]  # as much of it as is used
    await rig.keys.start()
    async with asyncio.timeout(within(5)):
        await enough.wait()
    await rig.keys.stop()
    assert pauses[:6] == [(0.2, 2.0), (0.2, 4.0), (0.2, 5.0), (0.9, 1.0), (0.2, 2.0), (0.9, 1.0)]
    assert rig.faults[:3] == ["It is away.", "no JSON", "RuntimeError while reading a key set."]


async def test_the_refreshing_is_the_probe_that_closes_a_breaker(rig: Rig) -> None:
    """No client has to send an unknown key for it."""
    rig.breakers = rig.keys._breakers = BreakerBoard(rig.meter, rig.meter.changes.append, open_s=0.01)
    script = Script(*[DependencyError("auth", "It is away.")] * STREAK, None)
    rig.keys._fetcher = script  # type: ignore[assignment]  # as much of it as is used
    breaker = rig.breakers.get(rig.keys.dependency, "user")
    for _ in range(STREAK):
        with pytest.raises(DependencyError):
            await breaker.call(rig.keys._fetch)
    assert (await rig.keys.check()).status == "degraded"
    assert breaker.state != "closed"
    async with asyncio.timeout(within(5)):
        while breaker.state != "closed":  # the pause is over by the clock
            with contextlib.suppress(DependencyError):
                await rig.keys._refresh()
            await asyncio.sleep(0.005)
    assert script.fetches == STREAK + 1
    status = await rig.keys.check()
    assert (status.status, status.breakers) == ("healthy", {"test/user": "closed"})
    assert rig.keys.knows("RS256", "rsa-1")
    assert not rig.keys.knows("RS256", "another")
    assert not rig.keys.knows("ES256", "rsa-1")
