"""The embedded provider: signing in, limits, rotation and reuse, logging out, blocking, introspection."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from narthex.adapters.tokens.claims import ClaimRules
from narthex.adapters.tokens.passwords import MAX_PASSWORD_LENGTH, MAX_WAITING, Argon2Passwords
from narthex.adapters.tokens.router import TokenRouter
from narthex.adapters.tokens.signing import SESSION_CLAIM, KeyRing
from narthex.adapters.tokens.static_keys import StaticKeys
from narthex.app.provider import (
    REUSE_GRACE_S,
    Account,
    Denied,
    Provider,
    ProviderPolicy,
    UserSession,
    mint_and_verify,
    user_id_of,
)
from narthex.app.revocations import Revocations
from narthex.domain.identity import Identity
from narthex.domain.trust import Binding
from narthex.domain.verdict import Rejected, Valid
from narthex.errors import ConfigError, DependencyError, Overloaded
from narthex.ports.credentials import User
from tests.adapters.tokens.issuer import NOW, SECRET, rules
from tests.adapters.tokens.memory import MemoryCredentials, as_port

PASSWORD = "correct horse battery staple"


class PlainPasswords:
    """Implements `PasswordHashes` without the cost; counts its calls."""

    def __init__(self) -> None:
        self.asked = 0

    async def hash(self, password: str) -> str:
        return f"plain:{password}"

    async def verify(self, encoded: str, password: str) -> bool:
        self.asked += 1
        await asyncio.sleep(0)
        return encoded == f"plain:{password}"


class Rig:
    """A provider with real parts, except for the store and the cost of hashing."""

    def __init__(self, policy: ProviderPolicy) -> None:
        self.now = NOW
        self.store = MemoryCredentials()
        self.ring = KeyRing(
            as_port(self.store),
            "provider",
            issuer="narthex",
            rules=ClaimRules(session_claim=SESSION_CLAIM),
            clock=lambda: self.now,
        )
        self.router = TokenRouter([self.ring])
        self.revocations = Revocations(as_port(self.store), None, clock=lambda: self.now)
        self.passwords = PlainPasswords()
        self.provider = Provider(
            credentials=as_port(self.store),
            mint=self.ring,
            verifier=self.router,
            passwords=self.passwords,
            revocations=self.revocations,
            policy=policy,
            clock=lambda: self.now,
        )

    async def start(self) -> Rig:
        """Load keys and accounts."""
        await self.ring.load_or_create()
        await self.provider.start()
        return self

    def identity(self, session: UserSession) -> Identity:
        """The identity in the session's access token."""
        verdict = self.router.verify(session.access_token, now=self.now, traffic="user")
        assert isinstance(verdict, Valid)
        return verdict.identity


async def open_provider() -> Rig:
    """Development: any e-mail signs in."""
    return await Rig(ProviderPolicy(open_login=True)).start()


async def closed_provider() -> Rig:
    """With one configured account."""
    account = Account(
        email="Ada@Example.com",
        password_hash=f"plain:{PASSWORD}",
        name="Ada",
        tenant="acme",
        plan="early",
        permissions=("chat", "admin"),
    )
    return await Rig(ProviderPolicy(open_login=False, accounts=(account,))).start()


async def session_of(rig: Rig, email: str = "ada@example.com", password: str = PASSWORD) -> UserSession:
    """Sign in, which must work."""
    found = await rig.provider.login(email, password, address="192.0.2.1")
    assert isinstance(found, UserSession), found
    return found


async def denied(rig: Rig, email: str, password: str, address: str = "192.0.2.1") -> Denied:
    """Sign in, which must not work."""
    found = await rig.provider.login(email, password, address=address)
    assert isinstance(found, Denied), found
    return found


# -- signing in --------------------------------------------------------------------------------------------


async def test_in_development_any_e_mail_signs_in_as_the_same_user_each_time() -> None:
    """Without a password; the subject does not reveal the user and is the same in every data directory."""
    rig = await open_provider()
    first, again = await session_of(rig, "Bob@Example.com"), await session_of(rig, "bob@example.com")
    identity = rig.identity(first)
    assert (
        identity.subject
        == first.user.user_id
        == again.user.user_id
        == user_id_of("default", "bob@example.com")
    )
    assert "bob" not in identity.subject
    assert (identity.tenant, identity.plan, identity.name) == ("default", "free", "bob")
    assert identity.expires_at == NOW + first.expires_in
    assert (await denied(rig, "not an e-mail", "")).code == "bad_request"


async def test_a_configured_account_needs_its_password() -> None:
    """Then it has the tenant, plan and permissions of the settings."""
    rig = await closed_provider()
    identity = rig.identity(await session_of(rig))
    assert (identity.tenant, identity.plan, identity.permissions) == ("acme", "early", ("chat", "admin"))
    assert (await denied(rig, "ada@example.com", "wrong")).code == "login_failed"


async def test_an_unknown_account_and_a_wrong_password_are_one_answer() -> None:
    """The same text, and a hash is computed for both."""
    rig = await closed_provider()
    wrong = await denied(rig, "ada@example.com", "wrong")
    unknown = await denied(rig, "nobody@example.com", "wrong")
    assert wrong == unknown
    assert rig.passwords.asked == 2


async def test_guessing_is_limited_per_address_and_account_also_in_parallel() -> None:
    """Five a minute, also for twenty at once; another address and, later, the same one may try again."""
    rig = await closed_provider()
    found = await asyncio.gather(*(denied(rig, "ada@example.com", f"guess-{n}") for n in range(20)))
    assert [answer.code for answer in found].count("login_failed") == 5
    limited = next(answer for answer in found if answer.code == "rate_limited")
    assert 1 <= limited.retry_after_s <= 61
    assert (await denied(rig, "ada@example.com", PASSWORD)).code == "rate_limited"
    elsewhere = await rig.provider.login("ada@example.com", PASSWORD, address="192.0.2.2")
    assert isinstance(elsewhere, UserSession)
    rig.now += 61
    await session_of(rig)


async def test_a_user_signs_in_on_many_devices_at_once() -> None:
    """Right passwords are not guesses, however many are verified at the same time."""
    rig = await closed_provider()
    at_once = (rig.provider.login("ada@example.com", PASSWORD, address="192.0.2.1") for _ in range(60))
    found = await asyncio.gather(*at_once)
    assert [one for one in found if not isinstance(one, UserSession)] == []


async def test_guessing_is_limited_over_accounts_and_over_addresses() -> None:
    """One address at many accounts, and many addresses at one account."""
    rig = await closed_provider()
    codes = [(await denied(rig, f"user{n}@example.com", "x")).code for n in range(40)]
    assert codes.count("login_failed") == 30
    rig = await closed_provider()
    codes = [(await denied(rig, "ada@example.com", "x", f"192.0.2.{n}")).code for n in range(60)]
    assert codes.count("login_failed") == 50


async def test_an_ipv6_network_is_one_address() -> None:
    """A client with a /64 has all of it."""
    rig = await closed_provider()
    codes = [(await denied(rig, "ada@example.com", "x", f"2001:db8::{n:x}")).code for n in range(1, 11)]
    assert codes.count("login_failed") == 5


async def test_an_office_behind_one_address_may_sign_in() -> None:
    """Successes do not count."""
    rig = await closed_provider()
    for _ in range(60):
        await session_of(rig)


async def test_accounts_in_a_confined_tenant_stop_the_start() -> None:
    """A user cannot sign in as a test identity."""
    policy = ProviderPolicy(open_login=False, accounts=(Account(email="a@b.example", tenant="e2e"),))
    with pytest.raises(ConfigError, match="tenant"):
        await Rig(policy).start()


# -- refresh -----------------------------------------------------------------------------------------------


async def test_each_refresh_gives_a_new_token_and_ends_the_old_one() -> None:
    """Rotation: the chain continues, and the access token belongs to the same user."""
    rig = await open_provider()
    session = await session_of(rig)
    for _ in range(3):
        rig.now += 60
        renewed = await rig.provider.refresh(session.refresh_token, from_cookie=False)
        assert isinstance(renewed, UserSession)
        assert renewed.refresh_token != session.refresh_token
        assert rig.identity(renewed).subject == rig.identity(session).subject
        session = renewed


async def test_a_used_refresh_token_ends_the_whole_family() -> None:
    """Thief or owner, the second use ends the family. Other sign-ins of the user continue."""
    rig = await open_provider()
    session, other = await session_of(rig), await session_of(rig)
    renewed = await rig.provider.refresh(session.refresh_token, from_cookie=False)
    assert isinstance(renewed, UserSession)
    for token in (session.refresh_token, renewed.refresh_token):
        outcome = await rig.provider.refresh(token, from_cookie=False)
        assert isinstance(outcome, Denied)
        assert outcome.code == "refresh_invalid"
    assert isinstance(await rig.provider.refresh(other.refresh_token, from_cookie=False), UserSession)


async def test_sign_ins_and_refreshes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By way and result; what an engine prevented is apart from what the user did wrong."""
    rig = await closed_provider()
    session = await session_of(rig)
    await denied(rig, "ada@example.com", "wrong")
    await rig.provider.refresh(session.refresh_token, from_cookie=False)
    await rig.provider.refresh("unknown", from_cookie=False)

    async def away(*_: object, **__: object) -> None:
        raise DependencyError("store", "It is away.", "Start it.")

    monkeypatch.setattr(rig.store, "upsert_user", away)
    monkeypatch.setattr(rig.store, "use_refresh", away)
    with pytest.raises(DependencyError):
        await session_of(rig)
    with pytest.raises(DependencyError):
        await rig.provider.refresh("unknown", from_cookie=False)
    assert rig.provider.sign_ins == {
        ("password", "ok"): 1,
        ("password", "login_failed"): 1,
        ("password", "unavailable"): 1,
    }
    assert rig.provider.refreshes == {"ok": 1, "refresh_invalid": 1, "unavailable": 1}


async def test_of_parallel_refreshes_one_wins() -> None:
    """Twenty at once: at most one new chain, and then reuse is detected."""
    rig = await open_provider()
    session = await session_of(rig)
    found = await asyncio.gather(
        *(rig.provider.refresh(session.refresh_token, from_cookie=False) for _ in range(20))
    )
    assert sum(isinstance(outcome, UserSession) for outcome in found) == 1


async def test_two_tabs_of_one_browser_may_race() -> None:
    """From a cookie, within seconds: an access token without a second chain; later it is reuse."""
    rig = await open_provider()
    session = await session_of(rig)
    first = await rig.provider.refresh(session.refresh_token, from_cookie=True)
    second = await rig.provider.refresh(session.refresh_token, from_cookie=True)
    assert isinstance(first, UserSession)
    assert isinstance(second, UserSession)
    assert second.refresh_token == ""
    assert rig.identity(second).subject == rig.identity(first).subject
    rig.now += REUSE_GRACE_S + 1
    assert isinstance(await rig.provider.refresh(session.refresh_token, from_cookie=True), Denied)
    assert isinstance(await rig.provider.refresh(first.refresh_token, from_cookie=True), Denied)


async def test_refresh_tokens_end_and_are_kept_as_hashes() -> None:
    """After their lifetime they are unknown; the store never has the plain token."""
    rig = await open_provider()
    session = await session_of(rig)
    assert session.refresh_token not in repr(rig.store.refresh)
    rig.now += session.refresh_expires_in + 1
    assert isinstance(await rig.provider.refresh(session.refresh_token, from_cookie=False), Denied)
    assert isinstance(await rig.provider.refresh("made up", from_cookie=False), Denied)


# -- ending ------------------------------------------------------------------------------------------------


async def test_logout_ends_the_access_token_and_its_chain() -> None:
    """Both; another device's session continues."""
    rig = await open_provider()
    session, other = await session_of(rig), await session_of(rig)
    await rig.provider.logout(rig.identity(session), session.refresh_token)
    assert rig.revocations.covers(rig.identity(session))
    assert not rig.revocations.covers(rig.identity(other))
    assert isinstance(await rig.provider.refresh(session.refresh_token, from_cookie=False), Denied)
    await rig.provider.logout(None, "")


async def test_revoke_takes_either_token_and_ignores_others() -> None:
    """RFC 7009: by possession; unknown tokens have no effect."""
    rig = await open_provider()
    session = await session_of(rig)
    await rig.provider.revoke("unknown")
    await rig.provider.revoke(session.access_token)
    assert rig.revocations.covers(rig.identity(session))
    await rig.provider.revoke(session.refresh_token)
    assert isinstance(await rig.provider.refresh(session.refresh_token, from_cookie=False), Denied)


async def test_a_blocked_user_is_out_everywhere_and_can_come_back() -> None:
    """Tokens, refresh and sign-in end; after unblocking new tokens are accepted."""
    rig = await closed_provider()
    session = await session_of(rig)
    assert await rig.provider.block_user("acme", session.user.user_id, blocked=True, reason="abuse")
    assert rig.revocations.covers(rig.identity(session))
    assert isinstance(await rig.provider.refresh(session.refresh_token, from_cookie=False), Denied)
    assert (await denied(rig, "ada@example.com", PASSWORD)).code == "account_blocked"
    assert await rig.provider.block_user("acme", session.user.user_id, blocked=False, reason="sorry")
    again = await session_of(rig)
    assert not rig.revocations.covers(rig.identity(again))


async def test_somebody_of_another_issuer_can_be_blocked_too() -> None:
    """Unknown here, and their tokens are covered all the same."""
    rig = await open_provider()
    assert not await rig.provider.block_user("acme", "stranger", blocked=True, reason="abuse")
    assert rig.revocations.covers(Identity(subject="stranger", tenant="acme", issued_at=NOW + 9))


async def test_a_chain_does_not_outlive_its_user() -> None:
    """Deleted users cannot refresh."""
    rig = await open_provider()
    session = await session_of(rig)
    rig.store.users.clear()
    assert isinstance(await rig.provider.refresh(session.refresh_token, from_cookie=False), Denied)


# -- introspection -------------------------------------------------------------------------------------------


async def test_introspection_says_what_a_token_is_worth_now() -> None:
    """Active with its claims; revoked, expired and foreign ones are inactive without further members."""
    rig = await open_provider()
    session = await session_of(rig)
    found = await rig.provider.introspect(session.access_token)
    assert found["active"] is True
    assert found["sub"] == session.user.user_id
    assert found["scope"] == "chat"
    await rig.provider.revoke(session.access_token)
    for token in (session.access_token, "opaque", "a.b.c"):
        assert await rig.provider.introspect(token) == {"active": False}


async def test_not_knowing_is_never_answered_as_inactive() -> None:
    """A failing store is our error: the caller must retry."""
    rig, other = await open_provider(), await open_provider()
    session = await session_of(other)
    rig.now += 5
    rig.store.away = True
    with pytest.raises(DependencyError):
        await rig.provider.introspect(session.access_token)


async def test_a_token_that_would_not_be_admitted_stops_the_start() -> None:
    """Another issuer with the provider's name is found before the port opens."""
    rig = await open_provider()
    await mint_and_verify(rig.ring, rig.router, NOW)
    elsewhere = TokenRouter([StaticKeys.from_secret(SECRET, rules(issuer="narthex"))])
    with pytest.raises(ConfigError, match="algorithm_not_allowed"):
        await mint_and_verify(rig.ring, elsewhere, NOW)


# -- passwords ---------------------------------------------------------------------------------------------


async def test_argon2id_verifies_and_takes_as_long_for_nobody() -> None:
    """The encoded form is argon2id; an empty hash never matches, whatever the password."""
    passwords = Argon2Passwords()
    encoded = await passwords.hash(PASSWORD)
    assert encoded.startswith("$argon2id$v=19$m=65536,t=3")
    assert await passwords.verify(encoded, PASSWORD)
    assert not await passwords.verify(encoded, "wrong")
    assert not await passwords.verify("", "nobody")
    assert not await passwords.verify("not a hash", PASSWORD)
    assert not await passwords.verify(encoded, "x" * (MAX_PASSWORD_LENGTH + 1))
    with pytest.raises(ValueError, match="long"):
        await passwords.hash("x" * (MAX_PASSWORD_LENGTH + 1))


async def test_a_crowd_of_sign_ins_is_told_to_come_back() -> None:
    """Hashing takes 64 MiB each: beyond the limit sign-ins are refused instead of queued."""
    passwords = Argon2Passwords()
    await passwords.verify("", "warm")
    found = await asyncio.gather(
        *(passwords.verify("", "x") for _ in range(MAX_WAITING + 5)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Overloaded) for outcome in found) == 5


async def test_the_token_of_a_session_is_a_plain_user() -> None:
    """Only the account's claims are in it."""
    rig = await closed_provider()
    session = await session_of(rig)
    assert "plain:" not in msgspec.json.encode(rig.identity(session)).decode()
    outcome = rig.router.verify(session.access_token + "x", now=NOW, traffic="user")
    assert isinstance(outcome, Rejected)


def test_the_lives_of_tokens_are_those_that_are_documented() -> None:
    """An hour, thirty days, and a working day for sessions of an OpenID provider (docs/authentication.md)."""
    policy = ProviderPolicy(open_login=True)
    assert (policy.access_ttl_s, policy.refresh_ttl_s, policy.oidc_session_s) == (
        3_600,
        30 * 86_400,
        12 * 3_600,
    )


async def test_unblocking_revives_no_refresh_token() -> None:
    """A formerly blocked user signs in again; a stolen refresh token stays invalid."""
    rig = await closed_provider()
    session = await session_of(rig)
    await rig.provider.block_user("acme", session.user.user_id, blocked=True, reason="stolen laptop")
    await rig.provider.block_user("acme", session.user.user_id, blocked=False, reason="it was found")
    found = await rig.provider.refresh(session.refresh_token, from_cookie=False)
    assert isinstance(found, Denied)
    assert isinstance(await session_of(rig), UserSession)


async def test_a_right_password_clears_the_count_of_its_address() -> None:
    """Four mistakes, then right, repeatedly: a successful attempt does not count as a failure."""
    rig = await closed_provider()
    for _ in range(5):
        for _ in range(4):
            assert (await denied(rig, "ada@example.com", "wrong")).code == "login_failed"
        await session_of(rig)


async def test_e_mails_are_bounded_at_both_ends() -> None:
    """From `a@b` to 254 characters (RFC 5321 section 4.5.3.1.3)."""
    rig = await open_provider()
    longest = "x" * (254 - len("@example.com")) + "@example.com"
    for email, allowed in (
        ("a@b", True),
        ("@b", False),
        ("ab", False),
        (longest, True),
        ("x" + longest, False),
    ):
        found = await rig.provider.login(email, "", address="192.0.2.1")
        assert isinstance(found, UserSession) is allowed, email


async def test_the_start_verifies_a_minted_token_unless_told_otherwise() -> None:
    """Keys that do not match are found before the first sign-in; an embedding program may bring its own verifier."""
    rig = Rig(ProviderPolicy(open_login=True))
    await rig.ring.load_or_create()
    stranger = await open_provider()
    rig.provider._verifier = stranger.router
    with pytest.raises(ConfigError, match="not admitted here"):
        await rig.provider.start()
    await rig.provider.start(verify_mint=False)


async def test_an_openid_session_lasts_twelve_hours_within_its_issuers_binding() -> None:
    """Afterwards, under another issuer, or out of its tenants, the user must sign in again; permissions are the current
    ones.
    """
    binding = Binding(tenants=("acme",), permissions=frozenset({"chat"}), plans=frozenset({"free"}))
    policy = ProviderPolicy(open_login=False, oidc_issuer="https://id.example", oidc_binding=binding)
    person = User(
        user_id="sub-1",
        tenant="acme",
        email="a@id.example",
        name="A",
        plan="mid",
        permissions=("chat", "admin"),
    )

    async def renewed(policy: ProviderPolicy, after_s: float) -> UserSession | Denied:
        rig = await Rig(policy).start()
        session = await rig.provider.begin_for(person, "https://id.example")
        assert isinstance(session, UserSession)
        rig.now += after_s
        return await rig.provider.refresh(session.refresh_token, from_cookie=False)

    found = await renewed(policy, 12 * 3_600 - 1)
    assert isinstance(found, UserSession)
    assert (found.user.permissions, found.user.plan) == (("chat",), "free")
    assert isinstance(await renewed(policy, 12 * 3_600), Denied)
    for changed in ({"oidc_issuer": "https://other.example"}, {"oidc_binding": Binding(tenants=("beta",))}):
        assert isinstance(await renewed(msgspec.structs.replace(policy, **changed), 1), Denied)


async def test_a_session_that_ends_while_it_is_renewed_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refresh in progress must not extend a family that was revoked meanwhile."""
    rig = await open_provider()
    session = await session_of(rig, "bob@example.com")
    real = rig.store.user

    async def meanwhile(tenant: str, user_id: str) -> User | None:
        await rig.provider.logout(rig.identity(session), "")
        return await real(tenant, user_id)

    monkeypatch.setattr(rig.store, "user", meanwhile)
    found = await rig.provider.refresh(session.refresh_token, from_cookie=False)
    assert isinstance(found, Denied) and found.code == "refresh_invalid"
    assert rig.store.refresh == {}


async def test_a_session_counts_in_its_own_environment_only() -> None:
    """The same user with the same password on the same store: staging's session renews nothing in production."""
    account = Account(email="ada@example.com", password_hash=f"plain:{PASSWORD}")
    staging = await Rig(ProviderPolicy(open_login=False, accounts=(account,), environment="staging")).start()
    session = await session_of(staging)
    for environment, renews in (("production", False), ("staging", True)):
        policy = ProviderPolicy(open_login=False, accounts=(account,), environment=environment)
        other = await Rig(policy).start()
        other.store.refresh = dict(staging.store.refresh)
        found = await other.provider.refresh(session.refresh_token, from_cookie=False)
        assert isinstance(found, UserSession) is renews, environment
