"""Claims become an identity: mapping, defaults, types, and expiry as the only fault."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.adapters.tokens.claims import (
    LEEWAY_S,
    MAX_ISSUER_LENGTH,
    MAX_TEXT_LENGTH,
    ClaimNames,
    ClaimRules,
    identity_from,
)
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.moments import LATEST_MOMENT_S
from narthex.domain.refusals import TABLE
from narthex.domain.trust import Binding
from narthex.domain.verdict import Rejected
from tests.adapters.tokens.issuer import NOW, claims

ANY = ClaimRules()


def admitted(found: dict[str, Any], rules: ClaimRules = ANY) -> Identity:
    """The identity; the claims must be good."""
    outcome = identity_from(found, rules, NOW)
    assert isinstance(outcome, Identity), outcome
    return outcome


def refused(found: dict[str, Any], rules: ClaimRules = ANY) -> Rejected:
    """The refusal; the claims must be bad."""
    outcome = identity_from(found, rules, NOW)
    assert isinstance(outcome, Rejected), outcome
    return outcome


def test_without_a_mapping_the_defaults_hold() -> None:
    """One tenant, the free plan, no permissions."""
    identity = admitted({"sub": "alice", "exp": NOW + 1})
    assert identity == Identity(subject="alice", expires_at=NOW + 1)


def test_claims_are_found_by_name_by_path_and_by_url() -> None:
    """A dotted path reaches into objects, a URL with dots is one name."""
    names = ClaimNames(
        tenant="https://acme.example/tenant",
        permissions="realm_access.roles",
        plan="app.billing.plan",
        name="n",
    )
    found = claims(
        **{
            "https://acme.example/tenant": "acme",
            "realm_access": {"roles": ["chat"]},
            "app": {"billing": {"plan": "early"}},
            "n": "Al\u202eice\n",
        }
    )
    identity = admitted(found, ClaimRules(names=names))
    assert (identity.tenant, identity.permissions, identity.plan) == ("acme", ("chat",), "early")
    assert identity.name == "Alice"
    assert admitted(claims(app="text"), ClaimRules(names=names)).plan == "free"


def test_permissions_may_be_words_and_are_bounded() -> None:
    """`scope` style text is split; of more than 64 the meaningful ones are kept and the rest is dropped."""
    assert admitted(claims(permissions="a b  c")).permissions == ("a", "b", "c")
    roles = [f"role-{number}" for number in range(200)]
    found = admitted(claims(permissions=[*roles, "admin"])).permissions
    assert len(found) == 64 and found[0] == "admin" and set(found) <= {"admin", *roles}
    assert refused(claims(permissions=[1])).code == "token_invalid"


LONG = "x" * MAX_TEXT_LENGTH
PRODUCTION = ClaimRules(environment="production")
ISSUER = ClaimRules(issuer="https://issuer.example")
AUDIENCE = ClaimRules(audiences=("narthex-tests",))
TESTS = ClaimRules(allow_e2e=True)


@pytest.mark.parametrize(
    ("changes", "rules", "code", "detail"),
    [
        ({"iss": 1}, ANY, "wrong_issuer", "`iss` is not a string"),
        ({"iss": "a\nb"}, ANY, "wrong_issuer", "`iss` is not printable text"),
        ({"iss": "x" * (MAX_ISSUER_LENGTH + 1)}, ANY, "wrong_issuer", "`iss` is not printable text"),
        ({"iss": ...}, ISSUER, "wrong_issuer", "`iss` is missing"),
        ({"iss": "https://other.example"}, ISSUER, "wrong_issuer", ""),
        ({"aud": 1}, ANY, "wrong_audience", "neither a string nor a list"),
        ({"aud": ["narthex-tests", 1]}, AUDIENCE, "wrong_audience", "neither a string nor a list"),
        ({"aud": ...}, AUDIENCE, "wrong_audience", "`aud` is missing"),
        ({"aud": ["other"]}, AUDIENCE, "wrong_audience", ""),
        ({"env": "staging"}, PRODUCTION, "token_invalid", "another environment"),
        ({"exp": ...}, ANY, "token_invalid", "`exp` is missing"),
        ({"exp": "1"}, ANY, "token_invalid", "`exp` is no number"),
        ({"exp": True}, ANY, "token_invalid", "`exp` is no number"),
        ({"exp": float("inf")}, ANY, "token_invalid", "`exp` is no number"),
        ({"nbf": None}, ANY, "token_invalid", "`nbf` is no number"),
        ({"nbf": -0.5}, ANY, "token_invalid", "not in seconds since 1970"),
        ({"exp": LATEST_MOMENT_S + 1}, ANY, "token_invalid", "not in seconds since 1970"),
        ({"sub": ...}, ANY, "token_invalid", "`sub` is missing"),
        ({"sub": "*"}, ANY, "token_invalid", "`sub` is `*`"),
        ({"jti": 1}, ANY, "token_invalid", "`jti` is not"),
        ({"jti": ""}, ANY, "token_invalid", "`jti` is not"),
        ({"tenant": "e2e"}, ANY, "tenant_mismatch", "reserved"),
        ({"tenant": LONG}, ANY, "token_invalid", "tenant claim"),
        ({"tenant": "b"}, ClaimRules(binding=Binding(tenants=("a",))), "tenant_mismatch", "may not speak"),
        ({"plan": LONG + "x"}, ANY, "token_invalid", "`plan` is not a short printable string"),
        ({"plan": "a\nb"}, ANY, "token_invalid", "`plan` is not a short printable string"),
        ({"permissions": 1}, ANY, "token_invalid", "permissions claim"),
        ({"e2e": "yes"}, TESTS, "token_invalid", "not a boolean"),
        ({"e2e": True}, ANY, "e2e_not_allowed_here", ""),
        ({"e2e": True, "iat": ...}, TESTS, "token_invalid", "`iat`"),
        ({"e2e": True, "test_run": "a b"}, TESTS, "token_invalid", "test run"),
        ({}, ClaimRules(allow_e2e=True, only_e2e=True), "token_invalid", "test identities only"),
    ],
)
def test_every_fault_has_its_code_and_names_its_claim(
    changes: dict[str, Any], rules: ClaimRules, code: str, detail: str
) -> None:
    """The issuer's operator must be able to find the wrong claim; a mere mismatch needs no more text."""
    found = refused(claims(**changes), rules)
    assert found.code == code
    assert detail in found.detail
    assert bool(detail) == bool(found.detail)


@pytest.mark.parametrize(
    ("changes", "rules"),
    [
        ({"iss": "x" * MAX_ISSUER_LENGTH}, ANY),
        ({"iss": ...}, ANY),
        ({"aud": ...}, ANY),
        ({"aud": ["other", "narthex-tests"]}, AUDIENCE),
        ({"env": "production"}, PRODUCTION),
        ({"env": ...}, PRODUCTION),
        ({"env": "staging"}, ANY),
        ({"nbf": 0}, ANY),
        ({"nbf": 0.0}, ANY),
        ({"exp": LATEST_MOMENT_S}, ANY),
        ({"exp": float(LATEST_MOMENT_S)}, ANY),
        ({"tenant": "a"}, ClaimRules(binding=Binding(tenants=("a",)))),
        ({"plan": LONG}, ANY),
        ({"e2e": True}, ClaimRules(allow_e2e=True, only_e2e=True)),
    ],
)
def test_what_is_just_within_the_rules_is_admitted(changes: dict[str, Any], rules: ClaimRules) -> None:
    """Each is the neighbour of a fault."""
    assert admitted(claims(**changes), rules).subject == "alice"


def test_a_test_identity_lives_fifteen_minutes_from_its_iat() -> None:
    """Or less, when its token is shorter; without a test run of its own it is named after its subject."""
    for lifetime_s, lives_s in ((3_600, 900), (600, 600)):
        iat = int(NOW) - 10
        identity = admitted(claims(e2e=True, iat=iat, exp=iat + lifetime_s), TESTS)
        assert identity.expires_at == iat + lives_s
    assert identity.test_run.startswith("sub-")
    assert len(identity.test_run) == len("sub-") + 16


def test_an_unknown_plan_is_the_default_one() -> None:
    """A typo at the issuer must not give no limits at all."""
    rules = ClaimRules(plans=frozenset({"free", "mid"}), default_plan="free")
    assert admitted(claims(plan="gold"), rules).plan == "free"
    assert admitted(claims(plan="mid"), rules).plan == "mid"


def test_a_fixed_tenant_wins_over_the_claim() -> None:
    """An issuer confined to a tenant cannot name another."""
    assert admitted(claims(tenant="other"), ClaimRules(binding=Binding(tenant="acme"))).tenant == "acme"


def test_a_test_identity_is_confined_whatever_it_claims() -> None:
    """Tenant e2e, class e2e, plan as mid; a user's claim of a test run is ignored."""
    rules = ClaimRules(allow_e2e=True)
    identity = admitted(claims(e2e=True, tenant="acme", test_run="run-7"), rules)
    assert (identity.tenant, identity.identity_class, identity.plan, identity.test_run) == (
        "e2e",
        IdentityClass.E2E,
        "mid",
        "run-7",
    )
    assert admitted(claims(e2e=False, test_run="run-7"), rules).test_run == ""


def test_expiry_is_reported_with_the_identity_only_when_it_is_the_only_fault() -> None:
    """Other faults come first, and then no identity is reported."""
    found = refused(claims(exp=NOW - LEEWAY_S))
    assert found.code == "token_expired"
    assert found.expired is not None
    assert found.expired.subject == "alice"
    for wrong, code in (
        ({"iss": "x"}, "wrong_issuer"),
        ({"aud": "x"}, "wrong_audience"),
        ({"nbf": NOW + 60}, "token_not_yet_valid"),
        ({"sub": ""}, "token_invalid"),
        ({"tenant": "probe"}, "tenant_mismatch"),
    ):
        strict = ClaimRules(issuer="https://issuer.example", audiences=("narthex-tests",))
        found = refused(claims(exp=NOW - 60, **wrong), strict)
        assert (found.code, found.expired) == (code, None)


@pytest.mark.parametrize("skew", [-1, 0, 1])
def test_leeway_is_exact(skew: float) -> None:
    """30 s either way, not a second more."""
    expired = identity_from(claims(exp=NOW - LEEWAY_S + skew), ANY, NOW)
    assert isinstance(expired, Identity) == (skew > 0)
    early = identity_from(claims(nbf=NOW + LEEWAY_S + skew), ANY, NOW)
    assert isinstance(early, Identity) == (skew <= 0)


def test_milliseconds_are_named_as_such() -> None:
    """The most frequent mistake of an issuer has its own sentence."""
    assert "seconds" in refused(claims(exp=(NOW + 600) * 1000)).detail


@given(
    st.dictionaries(
        st.sampled_from(
            ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "tenant", "plan", "permissions", "name", "e2e"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=5,
        ),
    )
)
def test_any_json_ends_in_an_identity_or_a_code_of_the_table(found: dict[str, Any]) -> None:
    """No claim raises, and no identity has unprintable text."""
    outcome = identity_from(found, ANY, NOW)
    if isinstance(outcome, Rejected):
        assert outcome.code in TABLE
    else:
        assert outcome.subject.isprintable()
        assert outcome.name == "" or outcome.name.isprintable()
        assert outcome.tenant not in ("e2e", "probe")
