"""The router itself: the sources that it starts, stops and includes in health."""

from __future__ import annotations

from typing import Any

import jwt
import pytest

from narthex.adapters.tokens.router import E2E_ISSUER, TokenRouter
from narthex.domain.verdict import Rejected
from narthex.ports.tokens import MAX_TOKEN_BYTES, VerifierStatus


class Source:
    """A key source or an opaque source that only notes its calls."""

    name = "test"
    issuers: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.life: list[str] = []

    async def start(self) -> None:
        """See the port."""
        self.life.append("start")

    async def stop(self) -> None:
        """See the port."""
        self.life.append("stop")


async def test_every_source_is_started_and_stopped() -> None:
    """Those of keys and the one for opaque tokens."""
    sources: list[Any] = [Source(), Source()]
    opaque: Any = Source()
    for router in (TokenRouter(sources, opaque=opaque), TokenRouter(sources)):
        await router.start()
        await router.stop()
    assert [source.life for source in sources] == [["start", "stop"] * 2] * 2
    assert opaque.life == ["start", "stop"]


class Keys(Source):
    """A source with keys of some issuers; `verify` names the source."""

    def __init__(
        self, name: str, *issuers: str, knows: tuple[str, ...] = (), status: str = "healthy"
    ) -> None:
        super().__init__()
        self.name, self.issuers, self._knows, self._status = name, issuers, knows, status

    def knows(self, algorithm: str, key_id: str) -> bool:
        """See the port."""
        assert algorithm == "HS256"
        return key_id in self._knows

    def verify(self, token: Any, *, now: float, traffic: str) -> Any:
        """In place of a verdict: the source's name."""
        assert (now, traffic) == (1.0, "user")
        return self.name

    async def check(self) -> VerifierStatus:
        """See the port."""
        return VerifierStatus(status=self._status, detail=f"{self.name} is {self._status}")


def token(issuer: str = "", key_id: str = "") -> str:
    """A JWT of an issuer."""
    claims = {"sub": "ada", **({"iss": issuer} if issuer else {})}
    return jwt.encode(claims, "k" * 32, algorithm="HS256", headers={"kid": key_id} if key_id else None)


def verified(text: str, *sources: Keys, opaque: Keys | None = None) -> Any:
    """The source that judged a token, or the refusal of the router itself."""
    router = TokenRouter(list(sources), opaque=opaque)
    return router.verify(text, now=1.0, traffic="user")


def test_a_token_is_judged_by_the_source_of_its_issuer_and_by_no_other() -> None:
    """Keys of one issuer verify no token of another, also where they have the same name."""
    one, two = (
        Keys("one", "https://one", knows=("k",)),
        Keys("two", "https://two", "https://two/", knows=("k",)),
    )
    assert verified(token("https://one", "k"), one, two) == "one"
    assert verified(token("https://two/", "k"), one, two) == "two"
    refused = verified(token("https://three", "k"), one, two)
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.key_id, refused.algorithm) == ("wrong_issuer", "k", "HS256")


def test_two_sources_of_one_issuer_share_its_tokens_by_key() -> None:
    """The one that knows the key; if neither does, the first says so."""
    one, two = Keys("one", "https://i", knows=("a",)), Keys("two", "https://i", knows=("b",))
    found = [verified(token("https://i", key), one, two) for key in ("a", "b", "c", "")]
    assert found == ["one", "two", "one", "one"]


def test_a_source_without_an_issuer_takes_what_no_other_claims() -> None:
    """Also a token without `iss`; never one of an issuer that has a source."""
    named, any_ = Keys("named", "https://i"), Keys("any")
    assert verified(token("https://other"), named, any_) == "any"
    assert verified(token(), named, any_) == "any"
    assert verified(token("https://i"), named, any_) == "named"
    refused = verified(token(), named)
    assert isinstance(refused, Rejected)
    assert refused.detail == "The claim `iss` is missing."
    refused = verified(token("x"))
    assert isinstance(refused, Rejected)
    assert refused.detail == "No issuer is configured here."


def test_a_test_identitys_token_is_named_where_none_is_taken() -> None:
    """Not even by a source that takes any issuer."""
    refused = verified(token(E2E_ISSUER, "k"), Keys("any"), opaque=Keys("opaque"))
    assert isinstance(refused, Rejected)
    assert (refused.code, refused.key_id) == ("e2e_not_allowed_here", "k")
    assert verified(token(E2E_ISSUER), Keys("e2e", E2E_ISSUER)) == "e2e"


def test_opaque_tokens_go_to_introspection() -> None:
    """And JWTs that no source claims; a text that is too long for a token goes nowhere."""
    opaque = Keys("opaque")
    assert verified("opaque-token", Keys("one", "https://i"), opaque=opaque) == "opaque"
    assert verified(token("https://other"), Keys("one", "https://i"), opaque=opaque) == "opaque"
    assert verified(token("https://i"), Keys("one", "https://i"), opaque=opaque) == "one"
    assert verified("o" * MAX_TOKEN_BYTES, opaque=opaque) == "opaque"
    assert isinstance(verified("o" * (MAX_TOKEN_BYTES + 1), opaque=opaque), Rejected)
    assert isinstance(verified("opaque-token", Keys("one", "https://i")), Rejected)


@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_health_is_that_of_the_worst_source(bad: int) -> None:
    """With the details of all; without a source nothing can be verified."""
    sources = [Keys(f"s{number}", status="degraded" if number == bad else "healthy") for number in range(2)]
    found = await TokenRouter(list(sources)).check()
    assert found.status == ("healthy" if bad == 2 else "degraded")
    assert f"s{min(bad, 1)} is " in found.detail
    assert (await TokenRouter([]).check()).status == "degraded"
