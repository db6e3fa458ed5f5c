"""`narthex.domain.admission`: every admission rule of docs/design.md#environments and #admission."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.admission import (
    E2E_LIFE_S,
    AdmissionPolicy,
    Admit,
    CheckedCredential,
    HandshakeFacts,
    admit,
    key_proof_identity,
)
from narthex.domain.carriers import Credential, ParsedCarriers
from narthex.domain.environment import Environment, EnvironmentPolicy, decide
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.origins import HostPolicy, OriginPolicy, parse_allowed_origins
from narthex.domain.refusals import TABLE, Refusal
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict

KEY = "0123456789abcdef0123456789abcdef"
ANN = Identity(subject="ann", expires_at=2_000.0)
BOB = Identity(subject="bob", expires_at=2_000.0)
TESTER = key_proof_identity(test_run="run-7", fresh_id="f" * 16, permissions=("chat",), now=1_000.0)
PAGE = "https://app.example.com"


def policy(environment: str = "production", *, e2e: bool = False, guests: bool = False) -> AdmissionPolicy:
    """The policy of one row of the table, with one foreign origin allowed."""
    row = decide({"ENVIRONMENT": environment}, keys=[KEY] if e2e else [], allow_anonymous=guests)
    assert isinstance(row, EnvironmentPolicy), row
    origins = parse_allowed_origins([PAGE])
    assert isinstance(origins, OriginPolicy)
    return AdmissionPolicy.of(row, origins=origins, hosts=HostPolicy())


def facts(
    *carriers: str,
    origin: str | None = None,
    hears: bool = False,
    in_band: bool = False,
    bound: Identity | None = None,
    fault: Refusal | None = None,
    hint: str = "",
) -> HandshakeFacts:
    """An attempt that brings something in each of `carriers`."""
    return HandshakeFacts(
        carriers=ParsedCarriers(
            credentials=tuple(Credential(carrier, "x") for carrier in carriers), fault=fault, hint=hint
        ),
        origin=origin,
        host="chat.example.com",
        scheme="https",
        sees_refusal=hears,
        in_band=in_band,
        bound=bound,
        fresh_id="0f" * 16,
    )


def judge(
    verdict: Verdict, carrier: str = "authorization", *, here: AdmissionPolicy | None = None, **more: object
) -> Admit | Refusal:
    """The outcome for one credential."""
    attempt = facts(carrier, **more)  # type: ignore[arg-type]  # a test's shorthand
    return admit(attempt, here or policy(), [CheckedCredential(carrier, verdict)])


def code(outcome: Admit | Refusal) -> str:
    """The refusal's code, or what an admission is."""
    return outcome.code if isinstance(outcome, Refusal) else outcome.inert or "admitted"


class TestValid:
    """A valid credential."""

    @pytest.mark.parametrize("environment", list(Environment))
    @pytest.mark.parametrize("carrier", ["authorization", "subprotocol", "ticket"])
    def test_is_admitted_everywhere(self, environment: str, carrier: str) -> None:
        """With its identity, and bound to it."""
        outcome = judge(Valid(ANN, "k1", "ES256"), carrier, here=policy(environment))
        assert isinstance(outcome, Admit)
        assert (outcome.identity, outcome.bound, outcome.carriers) == (ANN, ANN, (carrier,))
        assert (outcome.key_id, outcome.algorithm, outcome.inert) == ("k1", "ES256", "")

    @pytest.mark.parametrize("carrier", ["authorization", "subprotocol", "ticket", "cookie", "e2e_key"])
    def test_does_not_help_a_foreign_page(self, carrier: str) -> None:
        """`Origin`, when present, must be allowed for every carrier."""
        here = policy("staging", e2e=True)
        identity = TESTER if carrier == "e2e_key" else ANN
        assert (
            code(judge(Valid(identity), carrier, here=here, origin="https://evil.org"))
            == "origin_not_allowed"
        )
        assert code(judge(Valid(identity), carrier, here=here, origin="null")) == "origin_not_allowed"
        assert code(judge(Valid(identity), carrier, here=here, origin=PAGE)) == "admitted"
        assert (
            code(judge(Valid(identity), carrier, here=here, origin="https://chat.example.com")) == "admitted"
        )

    def test_the_cookie_needs_an_origin(self) -> None:
        """Browsers send it with every page's handshake (cross-site hijack)."""
        assert code(judge(Valid(ANN), "cookie")) == "origin_not_allowed"
        assert code(judge(Valid(ANN), "cookie", origin=PAGE)) == "admitted"


class TestSeveral:
    """Several carriers at once."""

    def outcome(self, *checked: CheckedCredential, origin: str | None = PAGE) -> Admit | Refusal:
        """For these verdicts."""
        return admit(facts(*(item.carrier for item in checked), origin=origin), policy(), list(checked))

    def test_of_one_subject_are_admitted(self) -> None:
        """The first one's rights count."""
        other = Identity(subject="ann", permissions=("admin",))
        outcome = self.outcome(
            CheckedCredential("authorization", Valid(ANN)), CheckedCredential("subprotocol", Valid(other))
        )
        assert isinstance(outcome, Admit)
        assert outcome.identity == ANN

    @pytest.mark.parametrize("second", ["subprotocol", "ticket", "cookie"])
    def test_of_two_subjects_are_a_conflict(self, second: str) -> None:
        """Also of one subject in two tenants; also when the second is the ambient cookie."""
        for other in (BOB, Identity(subject="ann", tenant="acme")):
            outcome = self.outcome(
                CheckedCredential("authorization", Valid(ANN)), CheckedCredential(second, Valid(other))
            )
            assert isinstance(outcome, Refusal)
            assert outcome.code == "credential_conflict"
            assert outcome.detail == f"The {second} names another subject than the Authorization header."

    @pytest.mark.parametrize(
        "stale", [Rejected("token_invalid"), Rejected("token_expired", expired=ANN), Unavailable("away")]
    )
    def test_a_stale_cookie_beside_a_token_is_not_looked_at(self, stale: Verdict) -> None:
        """Browsers send it automatically, and pages cannot remove an HttpOnly cookie."""
        outcome = self.outcome(
            CheckedCredential("authorization", Valid(ANN)), CheckedCredential("cookie", stale), origin=None
        )
        assert isinstance(outcome, Admit)
        assert outcome.identity == ANN

    def test_a_bad_token_beside_a_good_one_is_named(self) -> None:
        """A client that sends two on purpose should learn that one is bad; a good cookie does not replace it either."""
        bad = CheckedCredential("authorization", Rejected("token_invalid"))
        assert code(self.outcome(bad, CheckedCredential("subprotocol", Valid(ANN)))) == "token_invalid"
        assert code(self.outcome(bad, CheckedCredential("cookie", Valid(ANN)))) == "token_invalid"

    @pytest.mark.parametrize("other", ["authorization", "subprotocol", "ticket", "cookie"])
    def test_a_key_beside_anything_is_a_conflict(self, other: str) -> None:
        """Before either is looked at."""
        outcome = admit(facts("e2e_key", other, origin=PAGE), policy("staging", e2e=True), [])
        assert code(outcome) == "credential_conflict"


class TestBad:
    """What is not valid."""

    @pytest.mark.parametrize(
        "rejected",
        [
            "token_malformed",
            "token_invalid",
            "wrong_issuer",
            "unknown_key",
            "token_revoked",
            "ticket_invalid",
        ],
    )
    @pytest.mark.parametrize("environment", list(Environment))
    def test_rejected_is_final_everywhere(self, environment: str, rejected: str) -> None:
        """No environment upgrades a bad credential, not even inert."""
        outcome = judge(Rejected(rejected, log_detail="for the log"), here=policy(environment))
        assert isinstance(outcome, Refusal)
        assert outcome.code == rejected
        assert outcome.row.http == 401
        assert outcome.log_detail == "for the log"
        assert "for the log" not in outcome.detail
        assert "Authorization" in outcome.detail
        assert outcome.carriers_checked == ("authorization", "subprotocol", "ticket", "cookie", "e2e_key")

    def test_unavailable_is_not_bad(self) -> None:
        """503 with Retry-After, whatever the environment; the cause is for the log."""
        outcome = judge(Unavailable("jwks fetch timed out", 7))
        assert isinstance(outcome, Refusal)
        assert (outcome.code, outcome.retry_after_s, outcome.row.http) == ("auth_unavailable", 7, 503)
        assert "jwks" not in outcome.problem("t")["detail"]  # type: ignore[operator]  # it is a str

    def test_a_malformed_carrier_is_refused_first(self) -> None:
        """With the parser's own code."""
        fault = Refusal(code="credential_in_url", detail="The query string contains a JWT.")
        assert code(admit(facts(fault=fault), policy("development"), [])) == "credential_in_url"


class TestExpired:
    """A credential whose only fault is that it expired."""

    expired = Rejected("token_expired", key_id="k1", expired=ANN)

    def test_is_upgraded_inert_so_that_sdks_refresh(self) -> None:
        """In every environment, bound to its subject, with no identity."""
        for environment in Environment:
            outcome = judge(self.expired, here=policy(environment))
            assert isinstance(outcome, Admit)
            assert (outcome.identity, outcome.inert, outcome.bound, outcome.key_id) == (
                None,
                "expired",
                ANN,
                "k1",
            )

    def test_is_refused_where_the_reason_is_heard(self) -> None:
        """A client that offered `narthex.explain` fetches a fresh token for each attempt."""
        assert code(judge(self.expired, hears=True)) == "token_expired"

    def test_in_band_it_is_refused_for_another_try(self) -> None:
        """The connection answers error 109; another subject's is a conflict all the same."""
        assert code(judge(self.expired, "connect_token", in_band=True, bound=ANN)) == "token_expired"
        assert code(judge(self.expired, "connect_token", in_band=True, bound=BOB)) == "credential_conflict"

    def test_is_no_way_around_confinement(self) -> None:
        """An expired test token in production is refused like a fresh one."""
        assert code(judge(Rejected("token_expired", expired=TESTER))) == "e2e_not_allowed_here"


class TestNothing:
    """A connection that brings nothing."""

    @pytest.mark.parametrize(
        ("environment", "e2e", "expected"),
        [
            ("development", False, "unproven"),
            ("testing", False, "unproven"),
            ("development", True, "unproven"),
            ("staging", False, "auth_required"),
            ("staging", True, "unproven"),
            ("production", False, "auth_required"),
        ],
    )
    @pytest.mark.parametrize("origin", [None, PAGE])
    def test_by_environment(self, environment: str, e2e: bool, expected: str, origin: str | None) -> None:
        """Inert where in-band proof is accepted, refused elsewhere; never an identity."""
        outcome = admit(facts(origin=origin), policy(environment, e2e=e2e), [])
        assert code(outcome) == expected
        assert isinstance(outcome, Refusal) or (outcome.identity, outcome.bound) == (None, None)

    def test_a_foreign_page_is_refused_even_inert(self) -> None:
        """An inert connection could be authenticated by the page that opened it."""
        assert (
            code(admit(facts(origin="https://evil.org"), policy("development"), [])) == "origin_not_allowed"
        )

    def test_the_nearest_miss_is_said(self) -> None:
        """`auth_required` names what was seen instead."""
        outcome = admit(facts(hint="Another scheme than Bearer."), policy(), [])
        assert isinstance(outcome, Refusal)
        assert outcome.detail == "Another scheme than Bearer."

    @pytest.mark.parametrize("environment", ["development", "testing"])
    def test_guests_come_from_allowed_pages(self, environment: str) -> None:
        """Only where they are allowed, only from an allowed Origin, on their own plan, and free to sign in later."""
        here = policy(environment, guests=True)
        outcome = admit(facts(origin=PAGE), here, [])
        assert isinstance(outcome, Admit)
        assert outcome.identity is not None
        assert (outcome.identity.identity_class, outcome.identity.plan) == (IdentityClass.GUEST, "guest")
        assert outcome.bound is None
        assert code(admit(facts(), here, [])) == "unproven"
        assert code(admit(facts(origin="https://evil.org"), here, [])) == "origin_not_allowed"
        assert code(admit(facts(origin=PAGE), policy(environment), [])) == "unproven"

    def test_a_bad_token_makes_no_guest(self) -> None:
        """A failed attempt is refused with its reason."""
        here = policy("development", guests=True)
        assert code(judge(Rejected("token_invalid"), here=here, origin=PAGE)) == "token_invalid"


class TestInBand:
    """`connect` and `refresh`."""

    def outcome(self, identity: Identity, bound: Identity | None, here: AdmissionPolicy | None = None) -> str:
        """For a valid token of `identity`."""
        return code(judge(Valid(identity), "connect_token", here=here, in_band=True, bound=bound))

    def test_the_subject_must_stay(self) -> None:
        """In the same tenant; a connection without a subject may get any."""
        assert self.outcome(ANN, None) == "admitted"
        assert self.outcome(ANN, ANN) == "admitted"
        assert self.outcome(BOB, ANN) == "credential_conflict"
        assert self.outcome(Identity(subject="ann", tenant="acme"), ANN) == "credential_conflict"

    def test_test_identities_are_confined_in_band_too(self) -> None:
        """The same rules as at the handshake."""
        assert self.outcome(TESTER, None, policy("staging", e2e=True)) == "admitted"
        assert self.outcome(TESTER, None, policy("staging")) == "e2e_not_allowed_here"
        assert self.outcome(TESTER, None) == "e2e_not_allowed_here"


class TestTestIdentities:
    """Confinement."""

    @pytest.mark.parametrize("carrier", ["authorization", "subprotocol", "ticket", "e2e_key"])
    @pytest.mark.parametrize(
        ("environment", "e2e", "admitted"),
        [
            ("development", True, True),
            ("testing", True, True),
            ("staging", True, True),
            ("development", False, False),
            ("staging", False, False),
            ("production", False, False),
        ],
    )
    def test_where_they_are_admitted(self, carrier: str, environment: str, e2e: bool, admitted: bool) -> None:
        """Only where the bypass is active, with any carrier; never in production."""
        outcome = judge(Valid(TESTER), carrier, here=policy(environment, e2e=e2e))
        assert code(outcome) == ("admitted" if admitted else "e2e_not_allowed_here")

    def test_production_refuses_them_even_if_the_bypass_were_on(self) -> None:
        """Two locks: a policy that lies does not open the second."""
        lying = AdmissionPolicy(
            environment=Environment.PRODUCTION,
            pre_connection_auth_required=True,
            auth_bypass_active=True,
            guests=False,
            is_testing=False,
            is_e2e_testing=True,
        )
        assert code(judge(Valid(TESTER), here=lying)) == "e2e_not_allowed_here"

    def test_their_tenant_is_theirs_alone(self) -> None:
        """A user cannot claim it, and a test identity can claim no other."""
        here = policy("staging", e2e=True)
        assert code(judge(Valid(Identity(subject="a", tenant="e2e")), here=here)) == "tenant_mismatch"
        strayed = Identity(subject="a", tenant="acme", e2e=True, identity_class=IdentityClass.E2E)
        assert code(judge(Valid(strayed), here=here)) == "tenant_mismatch"

    def test_their_plan_is_mid(self) -> None:
        """Whatever their token claims."""
        rich = Identity(subject="a", tenant="e2e", e2e=True, plan="enterprise", test_run="r")
        outcome = judge(Valid(rich), here=policy("staging", e2e=True))
        assert isinstance(outcome, Admit)
        assert outcome.identity is not None
        assert (outcome.identity.plan, outcome.identity.identity_class) == ("mid", IdentityClass.E2E)

    def test_a_key_proof_is_named_after_its_run(self) -> None:
        """So that a reconnect finds its threads; without a run it is new each time. It lives 15 min."""
        assert (TESTER.subject, TESTER.tenant, TESTER.test_run, TESTER.e2e) == (
            "e2e:run-7",
            "e2e",
            "run-7",
            True,
        )
        assert TESTER.expires_at == 1_000.0 + E2E_LIFE_S == 1_900.0
        anonymous = key_proof_identity(test_run="", fresh_id="abcd", permissions=(), now=0.0)
        assert (anonymous.subject, anonymous.test_run) == ("e2e:abcd", "abcd")

    def test_the_key_is_not_taken_where_the_bypass_is_off(self) -> None:
        """Before it is compared, so that production never looks at one."""
        for here in (policy("production"), policy("staging"), policy("development")):
            assert code(admit(facts("e2e_key"), here, [])) == "e2e_not_allowed_here"

    def test_probes_come_with_tickets_only(self) -> None:
        """No issuer can make one."""
        probe = Identity(subject="p", tenant="probe", identity_class=IdentityClass.PROBE)
        assert code(judge(Valid(probe))) == "permission_denied"
        assert code(judge(Valid(probe), "ticket")) == "admitted"


IDENTITIES = st.builds(
    Identity,
    subject=st.sampled_from(["ann", "bob"]),
    tenant=st.sampled_from(["default", "e2e", "probe", "acme"]),
    e2e=st.booleans(),
    identity_class=st.sampled_from(IdentityClass),
    plan=st.sampled_from(["free", "mid", "enterprise"]),
)
VERDICTS: st.SearchStrategy[Verdict] = st.one_of(
    st.builds(Valid, IDENTITIES),
    st.builds(Rejected, st.sampled_from(["token_invalid", "token_revoked"])),
    st.builds(lambda identity: Rejected("token_expired", expired=identity), IDENTITIES),
    st.just(Unavailable("away")),
)
CARRIERS = st.sampled_from(["authorization", "subprotocol", "ticket", "cookie", "e2e_key"])


@given(
    st.sampled_from(Environment),
    st.booleans(),
    st.booleans(),
    st.dictionaries(CARRIERS, VERDICTS, max_size=3),
    st.sampled_from([None, PAGE, "https://evil.org"]),
    st.booleans(),
)
def test_nobody_has_an_identity_without_proof(
    environment: Environment,
    e2e: bool,
    guests: bool,
    brought: dict[str, Verdict],
    origin: str | None,
    hears: bool,
) -> None:
    """For any combination of credentials: an identity is proven or a guest, and the confinements hold."""
    remote = environment.remote
    here = policy(
        environment, e2e=e2e and environment is not Environment.PRODUCTION, guests=guests and not remote
    )
    attempt = facts(*brought, origin=origin, hears=hears)
    outcome = admit(
        attempt, here, [CheckedCredential(carrier, verdict) for carrier, verdict in brought.items()]
    )
    if isinstance(outcome, Refusal):
        assert outcome.code in TABLE
        return
    assert origin != "https://evil.org"
    identity = outcome.identity
    if identity is None:
        assert outcome.inert in ("unproven", "expired")
        return
    assert outcome.inert == ""
    if identity.issuer == "narthex" and identity.identity_class is IdentityClass.GUEST:
        assert not brought
        assert here.guests
        return
    assert any(isinstance(v, Valid) and v.identity.same_user(identity) for v in brought.values())
    assert identity.e2e == (identity.tenant == "e2e")
    if identity.e2e:
        assert here.auth_bypass_active
        assert environment is not Environment.PRODUCTION
        assert identity.plan == "mid"
