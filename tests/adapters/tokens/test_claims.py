"""Claims become an identity: mapping, defaults, types, and expiry as the only fault."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.adapters.tokens.claims import LEEWAY_S, ClaimNames, ClaimRules, identity_from
from narthex.domain.identity import Identity, IdentityClass
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
    """`scope` style text is split; of more than 64 those that mean something here are kept and the rest is dropped."""
    assert admitted(claims(permissions="a b  c")).permissions == ("a", "b", "c")
    roles = [f"role-{number}" for number in range(200)]
    found = admitted(claims(permissions=[*roles, "admin"])).permissions
    assert len(found) == 64 and found[0] == "admin" and set(found) <= {"admin", *roles}
    assert refused(claims(permissions=[1])).code == "token_invalid"


def test_an_unknown_plan_is_the_default_one() -> None:
    """A typo at the issuer must not give no limits at all."""
    rules = ClaimRules(plans=frozenset({"free", "mid"}), default_plan="free")
    assert admitted(claims(plan="gold"), rules).plan == "free"
    assert admitted(claims(plan="mid"), rules).plan == "mid"


def test_a_fixed_tenant_wins_over_the_claim() -> None:
    """An issuer confined to a tenant cannot name another."""
    assert admitted(claims(tenant="other"), ClaimRules(binding=Binding(tenant="acme"))).tenant == "acme"


def test_a_test_identity_is_confined_whatever_it_claims() -> None:
    """Tenant e2e, class e2e, plan as mid; a user's test run is nobody's."""
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
    """What else is wrong comes first, and then nobody is named."""
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
    """The commonest mistake of an issuer gets a sentence of its own."""
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
    """No claim raises, and no identity carries what cannot be printed."""
    outcome = identity_from(found, ANY, NOW)
    if isinstance(outcome, Rejected):
        assert outcome.code in TABLE
    else:
        assert outcome.subject.isprintable()
        assert outcome.name == "" or outcome.name.isprintable()
        assert outcome.tenant not in ("e2e", "probe")
