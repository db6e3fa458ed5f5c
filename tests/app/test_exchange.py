"""The simulation exchange by itself: each refusal with its count, the body's bounds, and whose token it gives."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest

from narthex.app import exchange as module
from narthex.app.exchange import (
    MAX_EMAIL_LENGTH,
    MAX_NAME_LENGTH,
    CiOidc,
    ExchangeAnswer,
    ExchangeRequest,
    TokenExchange,
)
from narthex.domain.admission import E2E_LIFE_S
from narthex.domain.environment import Environment
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict

NOW = 1_000_000.0
CI = Identity(subject="repo:acme/chat:main", tenant="ci")


class Rig:
    """An exchange whose parts remember what they were asked."""

    def __init__(self, *, environment: Environment = Environment.STAGING, possible: bool = True) -> None:
        self.counts: list[str] = []
        self.minted: list[tuple[Identity, float, float]] = []
        self.recorded: list[tuple[str, dict[str, Any]]] = []
        self.key_refusal: Refusal | None = None
        self.unrecorded: Refusal | None = None
        self.verdict: Verdict | Any = Valid(CI)
        self.checked: list[tuple[str, str]] = []
        self.exchange = TokenExchange(
            environment=environment,
            proofs=cast("Any", SimpleNamespace(possible=possible, check=self._check, permissions=("run",))),
            mint=cast("Any", SimpleNamespace(mint=self._mint)),
            admissions=cast("Any", SimpleNamespace(record=self._record)),
            ci=CiOidc(cast("Any", SimpleNamespace(verify=self._verify)), "repo:acme/chat:*"),
            meter=cast("Any", SimpleNamespace(e2e_admission=self.counts.append)),
            clock=lambda: NOW,
        )

    def _check(self, key: str, address: str) -> Refusal | None:
        self.checked.append((key, address))
        return self.key_refusal

    def _mint(self, identity: Identity, *, ttl_s: float, now: float) -> str:
        self.minted.append((identity, ttl_s, now))
        return "token"

    async def _record(self, identity: Identity, **facts: Any) -> Refusal | None:
        self.recorded.append((identity.subject, facts))
        return self.unrecorded

    def _verify(self, token: str, *, now: float, traffic: str) -> Any:
        assert (token, now, traffic) == ("ci-token", NOW, "e2e")
        return self.verdict

    async def asked(
        self, body: Any = None, *, keys: tuple[str, ...] = ("key",), authorization: tuple[str, ...] = ()
    ) -> ExchangeAnswer | Refusal:
        """Ask."""
        return await self.exchange.exchange(
            ExchangeRequest(
                keys=keys,
                authorization=authorization,
                body=b"" if body is None else json.dumps(body).encode(),
                address="192.0.2.1",
                trace_id="trace",
                fresh_id="0123456789abcdef",
            )
        )

    async def refused(self, *args: Any, **more: Any) -> tuple[str, list[str]]:
        """The refusal's code, and what was counted; nothing was minted."""
        found = await self.asked(*args, **more)
        assert isinstance(found, Refusal)
        assert self.minted == []
        return found.code, self.counts


async def test_nothing_is_exchanged_in_production_or_without_a_key() -> None:
    """For every kind of credential; each is counted under its own name."""
    assert await Rig(environment=Environment.PRODUCTION).refused() == (
        "e2e_not_allowed_here",
        ["not_allowed"],
    )
    assert await Rig(possible=False).refused() == ("auth_unavailable", ["no_key"])


async def test_a_key_is_checked_once_and_stripped() -> None:
    """Two keys, or a key beside a token, are a conflict; no proof at all is the missing key."""
    rig = Rig()
    assert isinstance(await rig.asked(keys=(" key ",)), ExchangeAnswer)
    assert rig.checked == [("key", "192.0.2.1")]
    assert (await Rig().refused(keys=("a", "b")))[0] == "credential_conflict"
    assert (await Rig().refused(authorization=("Bearer ci-token",)))[0] == "credential_conflict"
    assert (await Rig().refused(keys=()))[0] == "e2e_key_wrong"
    rig = Rig()
    rig.key_refusal = Refusal(code="e2e_key_wrong", detail="wrong")
    assert await rig.refused() == ("e2e_key_wrong", [])
    rig = Rig()
    rig.exchange.ci = None
    assert (await rig.refused(keys=(), authorization=("Bearer ci-token",)))[0] == "e2e_key_wrong"


@pytest.mark.parametrize(
    ("verdict", "code", "count"),
    [
        (Unavailable("away", 3), "auth_unavailable", "unavailable"),
        (Rejected("token_expired", "old"), "token_expired", "wrong_token"),
        (
            Valid(Identity(subject="repo:acme/chat-evil:main", tenant="ci")),
            "permission_denied",
            "wrong_subject",
        ),
    ],
)
async def test_a_token_of_ci_is_judged_and_counted(verdict: Verdict, code: str, count: str) -> None:
    """Its issuer is away, it is no good, or it belongs to another workflow."""
    rig = Rig()
    rig.verdict = verdict
    assert await rig.refused(keys=(), authorization=("Bearer ci-token",)) == (code, [count])
    rig = Rig()
    assert isinstance(await rig.asked(keys=(), authorization=("Bearer ci-token",)), ExchangeAnswer)
    assert rig.recorded[0][1]["proof"] == "oidc"


async def test_an_issuer_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller gets 503 in time."""
    monkeypatch.setattr(module, "WAIT_S", 0.01)

    async def never() -> Verdict:
        await asyncio.Event().wait()
        raise AssertionError

    rig = Rig()
    rig.verdict = never()
    found = await rig.refused(keys=(), authorization=("Bearer ci-token",))
    assert found == ("auth_unavailable", ["unavailable"])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"email": "a" * (MAX_EMAIL_LENGTH - 4) + "@b.c"}, {"email": "a" * (MAX_EMAIL_LENGTH - 3) + "@b.c"}),
        ({"email": ""}, {"email": "no-address"}),
        ({"email": "a+b@c.d"}, {"email": "a:b@c.d"}),
        ({"name": "n" * MAX_NAME_LENGTH}, {"name": "n" * (MAX_NAME_LENGTH + 1)}),
        ({"name": "\u00c4"}, {"name": "a\nb"}),
        ({"test_run": "r" * 64}, {"test_run": "r" * 65}),
        ({"test_run": "a.b_c~d-1"}, {"test_run": "a b"}),
        ({}, {"permissions": ["admin"]}),
        ({}, {"tenant": "acme"}),
        ({}, []),
    ],
)
async def test_the_bounds_of_the_body(good: Any, bad: Any) -> None:
    """At the bound, and one beyond: 422 with the name of the member; rights cannot be asked for."""
    assert isinstance(await Rig().asked(good), ExchangeAnswer)
    assert await Rig().refused(bad) == ("body_invalid", ["bad_body"])


async def test_the_token_is_that_of_a_confined_test_identity() -> None:
    """15 minutes, the server's permissions, tenant e2e; the answer names the user, and the admission is recorded."""
    rig = Rig()
    found = await rig.asked({"email": " Ann@Example.com ", "name": "Ann", "test_run": "r1"})
    assert isinstance(found, ExchangeAnswer)
    ((identity, ttl_s, now),) = rig.minted
    assert (ttl_s, now, identity.tenant, identity.permissions) == (E2E_LIFE_S, NOW, "e2e", ("run",))
    assert identity.subject == "e2e:r1:ann@example.com"
    assert found.access_token == "token"
    assert found.user == {
        "id": identity.subject, "email": "ann@example.com", "name": "Ann", "tenant": "e2e", "plan": identity.plan,
        "permissions": ["run"], "e2e": True, "test_run": "r1",
    }  # fmt: skip
    ((subject, facts),) = rig.recorded
    assert subject == identity.subject
    assert (facts["surface"], facts["proof"], facts["address"], facts["trace_id"]) == (
        "exchange", "e2e_key", "192.0.2.1", "trace",
    )  # fmt: skip


async def test_one_e_mail_is_one_user_in_a_test_run() -> None:
    """Without either, the user is new each time."""
    rig = Rig()
    for body in ({"email": "a@b.c"}, {"test_run": "r1"}, {}):
        await rig.asked(body)
    subjects = [identity.subject for identity, _, _ in rig.minted]
    assert subjects[0] == "e2e:a@b.c"
    assert subjects[1] == "e2e:r1"
    assert subjects[2].startswith("e2e:")
    assert subjects[2] not in subjects[:2]


async def test_an_admission_that_cannot_be_recorded_is_none() -> None:
    """No token leaves without its audit record."""
    rig = Rig()
    rig.unrecorded = Refusal(code="auth_unavailable", detail="away")
    assert (await rig.refused())[0] == "auth_unavailable"


@pytest.mark.parametrize(
    ("pattern", "subject", "named"),
    [
        ("repo:a/b:*", "repo:a/b:main", True),
        ("repo:a/b:*", "repo:a/b-evil:main", False),
        ("repo:a/b:main", "repo:a/b:main", True),
        ("repo:a/b:main", "repo:a/b:main2", False),
        ("", "", False),
    ],
)
def test_the_subject_of_ci(pattern: str, subject: str, named: bool) -> None:
    """Whole, or up to the asterisk; an empty one names no workflow."""
    assert CiOidc(cast("Any", None), pattern).names(subject) is named
