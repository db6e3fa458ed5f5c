"""The authorization code flow's answers: only an ID token for this client and this sign-in is accepted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest

from narthex.adapters.tokens.breaker import BreakerBoard
from narthex.adapters.tokens.code_flow import CodeFlow
from narthex.adapters.tokens.fetching import Fetcher
from narthex.domain.verdict import Rejected, Unavailable
from narthex.errors import DependencyError
from narthex.ports.sign_in import SignedInUser
from tests.adapters.tokens.http_issuer import HttpIssuer
from tests.adapters.tokens.issuer import NOW, rsa_key, rules, token
from tests.adapters.tokens.meters import StateMeter

DISCOVERY = "/.well-known/openid-configuration"


class Rig:
    """A provider that answers with the ID token of the test."""

    def __init__(self, issuer: HttpIssuer, secret: str = "s3cret/with+odd") -> None:
        self.issuer = issuer
        self.fetcher = Fetcher(timeout_s=2)
        meter = StateMeter()
        issuer.documents[DISCOVERY] = {
            "issuer": issuer.url,
            "authorization_endpoint": issuer.url + "/authorize?a=b",
            "token_endpoint": issuer.url + "/token",
            "jwks_uri": issuer.url + "/jwks",
        }
        issuer.documents["/jwks"] = {"keys": [rsa_key().as_dict(private=False)]}
        self.flow = CodeFlow(
            "test",
            issuer.url,
            "client",
            secret,
            rules(algorithms=("RS256",)),
            fetcher=self.fetcher,
            breakers=BreakerBoard(meter, meter.changes.append),
        )

    def gives(self, **changes: Any) -> None:
        """The ID token that the token end point gives."""
        claims = {"iss": self.issuer.url, "aud": "client", "nonce": "n", **changes}
        self.issuer.documents["/token"] = {"id_token": token(rsa_key(), "RS256", **claims)}

    async def redeem(self) -> SignedInUser | Rejected | Unavailable:
        """Exchange a code."""
        return await self.flow.redeem("code", redirect_uri="https://gw/cb", verifier="v", nonce="n", now=NOW)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """With a client secret."""
    async with HttpIssuer() as issuer:
        found = Rig(issuer)
        yield found
        await found.flow.stop()
        await found.fetcher.stop()


async def test_the_browser_is_sent_with_pkce(rig: Rig) -> None:
    """Every parameter that the provider needs, beside those of its own."""
    url = await rig.flow.authorization_url(redirect_uri="https://gw/cb", state="s", nonce="n", challenge="c")
    query = parse_qs(urlsplit(url).query)
    assert query["a"] == ["b"]
    assert query["client_id"] == ["client"]
    assert query["code_challenge_method"] == ["S256"]
    assert (query["state"], query["nonce"], query["code_challenge"]) == (["s"], ["n"], ["c"])


async def test_the_issuer_is_named_for_sessions(rig: Rig) -> None:
    """The sign-in binds a session to it, and refuses another issuer's `iss` in the answer."""
    assert rig.flow.issuer == rig.issuer.url


async def test_a_verified_e_mail_comes_along_and_an_unverified_one_does_not(rig: Rig) -> None:
    """Only the boolean true is a verification."""
    rig.gives(email="ada@example.com", email_verified=True, tenant="acme")
    person = await rig.redeem()
    assert isinstance(person, SignedInUser)
    assert (person.identity.user, person.email) == ("acme/alice", "ada@example.com")
    for claim in (False, "true", 1, None):
        rig.gives(email="ada@example.com", email_verified=claim)
        person = await rig.redeem()
        assert isinstance(person, SignedInUser)
        assert person.email == ""


async def test_the_client_names_itself_and_shows_the_verifier(rig: Rig) -> None:
    """Basic credentials with both parts encoded (RFC 6749 section 2.3.1); without a secret none."""
    seen: list[tuple[str, dict[str, str]]] = []

    def answer(head: str, body: bytes) -> tuple[int, Any]:
        seen.append((head, dict(parse_qsl(body.decode()))))
        return 400, {"error": "invalid_grant"}

    rig.issuer.documents["/token"] = answer
    await rig.redeem()
    public = Rig(rig.issuer, secret="")
    rig.issuer.documents["/token"] = answer
    await public.redeem()
    await public.fetcher.stop()
    assert seen[0][1]["code_verifier"] == "v"
    import base64

    assert base64.b64encode(b"client:s3cret%2Fwith%2Bodd").decode() in seen[0][0]
    assert "authorization:" not in seen[1][0].lower()


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "another"},
        {"nonce": ...},
        {"nonce": 1},
        {"aud": "another"},
        {"azp": "another"},
        {"aud": ["client", "another"]},
        {"aud": ["client", "another"], "azp": "another"},
        {"iss": "https://evil.example"},
        {"exp": NOW - 60},
        {"sub": ""},
        {"e2e": True},
        {"tenant": "probe"},
    ],
)
async def test_an_id_token_of_another_journey_or_client_signs_nobody_in(
    rig: Rig, changes: dict[str, Any]
) -> None:
    """Nonce, audience, authorised party, issuer, time and claims."""
    rig.gives(**changes)
    assert isinstance(await rig.redeem(), Rejected)


async def test_of_several_audiences_azp_names_the_client(rig: Rig) -> None:
    """OpenID Connect Core 1.0 section 3.1.3.7; one audience needs no `azp`."""
    rig.gives(aud=["client", "another"], azp="client")
    assert isinstance(await rig.redeem(), SignedInUser)


@pytest.mark.parametrize(
    "answer", [{}, [], {"id_token": 1}, {"id_token": "a.b.c"}, {"id_token": "x"}, (400, {})]
)
async def test_an_answer_without_an_id_token_signs_nobody_in(rig: Rig, answer: Any) -> None:
    """Also a refused code."""
    rig.issuer.documents["/token"] = answer
    assert isinstance(await rig.redeem(), Rejected)


async def test_a_provider_that_is_away_is_no_refusal(rig: Rig) -> None:
    """5xx and a missing end point: come back."""
    rig.issuer.documents["/token"] = (503, {})
    assert isinstance(await rig.redeem(), Unavailable)
    rig.issuer.documents[DISCOVERY] = (500, {})
    fresh = Rig(rig.issuer)
    rig.issuer.documents[DISCOVERY] = (500, {})
    with pytest.raises(DependencyError):
        await fresh.flow.authorization_url(redirect_uri="x", state="s", nonce="n", challenge="c")
    rig.issuer.documents[DISCOVERY] = {"issuer": rig.issuer.url}
    with pytest.raises(DependencyError, match="authorization_endpoint"):
        await fresh.flow.authorization_url(redirect_uri="x", state="s", nonce="n", challenge="c")
    await fresh.fetcher.stop()
