"""The key ring: minting, verifying, agreeing on the first key, rotation with overlap, a failing store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable

import pytest

from narthex.adapters.tokens import signing as module
from narthex.adapters.tokens.claims import ClaimRules
from narthex.adapters.tokens.compact import Compact, take_apart
from narthex.adapters.tokens.router import TokenRouter
from narthex.adapters.tokens.signing import (
    MAX_TTL_S,
    RELOAD_COOL_DOWN_S,
    ROTATION_LEAD_S,
    STALE_S,
    KeyRing,
    SigningAlgorithm,
    new_key,
)
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import ConfigError, DependencyError
from tests.adapters.tokens.issuer import NOW
from tests.adapters.tokens.memory import MemoryCredentials, as_port
from tests.timing import within


class Clock:
    """Time that tests move."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def ring(
    store: MemoryCredentials, clock: Clock, *, audience: str = "", algorithm: SigningAlgorithm = "ES256"
) -> KeyRing:
    """A provider's ring over `store`."""
    return KeyRing(
        as_port(store),
        "provider",
        issuer="narthex",
        aliases=("narthex", "https://gw.example"),
        audience=audience,
        rules=ClaimRules(),
        algorithm=algorithm,
        clock=clock,
    )


async def settled(outcome: Verdict | Awaitable[Verdict]) -> Verdict:
    """The verdict, waited for if need be."""
    return outcome if isinstance(outcome, Valid | Rejected | Unavailable) else await outcome


async def verdict(of: KeyRing, token: str, now: float) -> Verdict:
    """The ring's verdict on a token."""
    return await settled(TokenRouter([of]).verify(token, now=now, traffic="user"))


def parts_of(token: str) -> Compact:
    """A token taken apart."""
    parts = take_apart(token)
    assert isinstance(parts, Compact)
    return parts


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "EdDSA"])
async def test_what_it_mints_it_admits(algorithm: SigningAlgorithm) -> None:
    """Everything of the identity survives, with every algorithm, and no await is needed."""
    clock = Clock()
    keys = ring(MemoryCredentials(), clock, algorithm=algorithm)
    await keys.load_or_create()
    alice = Identity(subject="alice", tenant="acme", plan="mid", permissions=("chat", "admin"), name="Ålice")
    outcome = TokenRouter([keys]).verify(keys.mint(alice, ttl_s=60, now=NOW), now=NOW, traffic="user")
    assert isinstance(outcome, Valid)
    identity = outcome.identity
    assert (identity.subject, identity.tenant, identity.plan, identity.name) == (
        "alice",
        "acme",
        "mid",
        "Ålice",
    )
    assert identity.permissions == ("chat", "admin")
    assert (identity.issued_at, identity.expires_at, identity.issuer) == (NOW, NOW + 60, "narthex")
    assert identity.token_id
    assert identity.identity_class is IdentityClass.USER
    assert outcome.algorithm == algorithm


async def test_a_test_identity_is_minted_by_its_own_ring_only() -> None:
    """The e2e ring's tokens are test identities; the provider's ring cannot make one."""
    store, clock = MemoryCredentials(), Clock()
    e2e = KeyRing(as_port(store), "e2e", issuer="narthex-e2e", rules=ClaimRules(allow_e2e=True), clock=clock)
    provider = ring(store, clock)
    await e2e.start()
    await provider.start()
    someone = Identity(subject="e2e:run-1", e2e=True, test_run="run-1")
    token = e2e.mint(someone, ttl_s=900, now=NOW)
    outcome = await settled(TokenRouter([provider, e2e]).verify(token, now=NOW, traffic="e2e"))
    assert isinstance(outcome, Valid)
    assert (outcome.identity.tenant, outcome.identity.test_run) == ("e2e", "run-1")
    assert outcome.identity.identity_class is IdentityClass.E2E
    # the same token where the issuer is not registered, and one that the provider's ring was made to sign
    assert await verdict(provider, token, NOW) == Rejected(
        "e2e_not_allowed_here", key_id=parts_of(token).key_id
    )
    forged = await verdict(provider, provider.mint(someone, ttl_s=900, now=NOW), NOW)
    assert isinstance(forged, Rejected)
    assert forged.code == "e2e_not_allowed_here"
    await e2e.stop()
    await provider.stop()


async def test_instances_that_start_together_agree() -> None:
    """Ten rings over one store make one key."""
    store, clock = MemoryCredentials(), Clock()
    rings = [ring(store, clock) for _ in range(10)]
    await asyncio.gather(*(each.load_or_create() for each in rings))
    assert len(store.kept_keys) == 1
    token = rings[0].mint(Identity(subject="alice"), ttl_s=60, now=NOW)
    for each in rings:
        assert isinstance(await verdict(each, token, NOW), Valid)


async def test_public_keys_hold_no_private_member() -> None:
    """The published set verifies and cannot sign."""
    keys = ring(MemoryCredentials(), Clock())
    await keys.load_or_create()
    published = json.dumps(keys.public_keys())
    assert '"d"' not in published
    assert '"kid"' in published
    assert '"alg": "ES256"' in published


async def test_a_rotation_disturbs_nobody() -> None:
    """The new key is published before it signs, the old one verifies until its last token has ended."""
    store, clock = MemoryCredentials(), Clock()
    ours, theirs = ring(store, clock), ring(store, clock)
    await ours.load_or_create()
    await theirs.load_or_create()
    old = ours.mint(Identity(subject="alice"), ttl_s=MAX_TTL_S, now=clock.now)
    fresh = await ours.rotate()
    assert fresh.not_before == NOW + ROTATION_LEAD_S
    published = ours.public_keys()["keys"]
    assert isinstance(published, list)
    assert len(published) == 2
    assert parts_of(ours.mint(Identity(subject="a"), ttl_s=60, now=clock.now)).key_id != fresh.kid
    clock.now += ROTATION_LEAD_S
    new = ours.mint(Identity(subject="alice"), ttl_s=60, now=clock.now)
    assert parts_of(new).key_id == fresh.kid
    # another instance that has not read the store since learns of the key from the token
    assert isinstance(await verdict(theirs, new, clock.now), Valid)
    assert isinstance(await verdict(theirs, old, clock.now), Valid)
    clock.now = NOW + MAX_TTL_S
    await ours.load_or_create()
    assert isinstance(await verdict(ours, old, clock.now), Valid)


async def test_after_a_leak_the_old_keys_end_at_once() -> None:
    """`rotate(immediately=True)` signs with the new key now and refuses the old one's tokens."""
    store, clock = MemoryCredentials(), Clock()
    keys = ring(store, clock)
    await keys.load_or_create()
    stolen = keys.mint(Identity(subject="alice"), ttl_s=600, now=clock.now)
    fresh = await keys.rotate(immediately=True)
    assert parts_of(keys.mint(Identity(subject="a"), ttl_s=60, now=clock.now)).key_id == fresh.kid
    for _ in range(3):  # it is known to have ended: no request is needed, and the answer is final
        outcome = keys.verify(parts_of(stolen), now=clock.now, traffic="user")
        assert isinstance(outcome, Rejected)
        assert outcome.code == "unknown_key"


async def test_a_running_instance_hears_of_a_leak_by_its_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a message: it reads the store often, and parses keys only when they changed."""
    assert module.RELOAD_EVERY_S < 2.0
    monkeypatch.setattr(module, "RELOAD_EVERY_S", 0.01)
    store, clock = MemoryCredentials(), Clock()
    running, beside = ring(store, clock), ring(store, clock)
    await running.start()
    stolen = running.mint(Identity(subject="alice"), ttl_s=600, now=clock.now)
    table = running._table
    async with asyncio.timeout(within(5)):
        reads = store.reads
        while store.reads < reads + 3:  # noqa: ASYNC110 - a poll has no event
            await asyncio.sleep(0.005)
        assert running._table is table
        await beside.load_or_create()
        fresh = await beside.rotate(immediately=True)
        while parts_of(running.mint(Identity(subject="a"), ttl_s=60, now=clock.now)).key_id != fresh.kid:  # noqa: ASYNC110 - a poll has no event
            await asyncio.sleep(0.005)
    outcome = await verdict(running, stolen, clock.now)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "unknown_key"
    await running.stop()


async def test_a_key_ends_without_a_change_in_the_store() -> None:
    """`retire_at` passes while its row stays as it is."""
    store, clock = MemoryCredentials(), Clock()
    keys = ring(store, clock)
    await keys.load_or_create()
    token = keys.mint(Identity(subject="alice"), ttl_s=MAX_TTL_S, now=clock.now)
    await keys.rotate()
    (old,) = (key for key in store.kept_keys.values() if key.retire_at)
    clock.now = old.retire_at
    await keys.load_or_create()
    outcome = await verdict(keys, token, clock.now)
    assert isinstance(outcome, Rejected)
    assert outcome.code == "unknown_key"


async def test_the_first_key_signs_at_once_even_if_made_by_rotation() -> None:
    """`narthex keys rotate` before the first start leaves no minute without a key."""
    store, clock = MemoryCredentials(), Clock()
    keys = ring(store, clock)
    assert (await keys.rotate()).not_before == NOW


async def test_a_clock_that_is_behind_signs_with_the_first_key() -> None:
    """An instance whose clock is a day behind the key's creator would otherwise have no key for a day."""
    store, clock = MemoryCredentials(), Clock()
    await ring(store, clock).load_or_create()
    clock.now -= 86_400.0
    behind = ring(store, clock)
    await behind.start()
    await behind.stop()
    assert len(await store.keys("provider")) == 1


async def test_unknown_kids_read_the_store_once_a_second() -> None:
    """A hundred tokens of unknown keys cost one read; meanwhile the verdict is unknown."""
    store, clock = MemoryCredentials(), Clock()
    keys, other = ring(store, clock), ring(MemoryCredentials(), clock)
    await keys.load_or_create()
    await other.load_or_create()
    token = other.mint(Identity(subject="mallory"), ttl_s=60, now=clock.now)
    clock.now += RELOAD_COOL_DOWN_S
    before = store.reads
    outcomes = await asyncio.gather(*(verdict(keys, token, clock.now) for _ in range(100)))
    assert store.reads == before + 1
    assert {type(outcome) for outcome in outcomes} == {Rejected}
    assert isinstance(await verdict(keys, token, clock.now), Unavailable)


async def test_a_store_that_is_away_is_not_a_bad_token() -> None:
    """Known keys continue to verify; an unknown one is `Unavailable`."""
    store, clock = MemoryCredentials(), Clock()
    keys, other = ring(store, clock), ring(MemoryCredentials(), clock)
    await keys.load_or_create()
    await other.load_or_create()
    good = keys.mint(Identity(subject="alice"), ttl_s=60, now=clock.now)
    unknown = other.mint(Identity(subject="bob"), ttl_s=60, now=clock.now)
    store.away = True
    clock.now += 5
    assert isinstance(await verdict(keys, good, clock.now), Valid)
    assert isinstance(await verdict(keys, unknown, clock.now), Unavailable)


async def test_a_token_never_outlives_its_key() -> None:
    """A token whose lifetime exceeds the publication of its replaced key is shortened to it."""
    keys = ring(MemoryCredentials(), Clock())
    await keys.load_or_create()
    token = keys.mint(Identity(subject="alice"), ttl_s=10 * MAX_TTL_S, now=NOW)
    assert parts_of(token).claims["exp"] == int(NOW + MAX_TTL_S)


async def test_the_audience_is_written_and_not_asked_for() -> None:
    """`narthex token` without the server's settings is admitted, other services find their audience."""
    store, clock = MemoryCredentials(), Clock()
    plain, named = ring(store, clock), ring(store, clock, audience="gateway")
    await plain.load_or_create()
    await named.load_or_create()
    assert parts_of(named.mint(Identity(subject="a"), ttl_s=60, now=NOW)).claims["aud"] == "gateway"
    assert isinstance(await verdict(named, plain.mint(Identity(subject="a"), ttl_s=60, now=NOW), NOW), Valid)


async def test_without_a_key_it_says_so() -> None:
    """Minting before loading is a dependency's fault, not a crash."""
    with pytest.raises(DependencyError, match="signing key"):
        ring(MemoryCredentials(), Clock()).mint(Identity(subject="a"), ttl_s=1, now=NOW)


async def test_a_key_that_does_not_match_stops_the_start() -> None:
    """A store whose private and public halves differ is a start-up error (exit 78)."""
    store = MemoryCredentials()
    one, two = (new_key("provider", "ES256", NOW, not_before=NOW) for _ in range(2))
    mixed = {**json.loads(one.jwk), "d": json.loads(two.jwk)["d"]}
    store.kept_keys[one.kid] = type(one)(
        kid=one.kid,
        purpose="provider",
        algorithm="ES256",
        jwk=json.dumps(mixed),
        created_at=NOW,
        not_before=NOW,
    )
    with pytest.raises(ConfigError, match="provider key"):
        await ring(store, Clock()).start()


async def test_health_mints_and_verifies_and_notices_silence() -> None:
    """Healthy right after loading; degraded when the store has not answered for a minute of elapsed time."""
    store, clock = MemoryCredentials(), Clock()
    keys = ring(store, clock)
    await keys.start()
    assert (await keys.check()).status == "healthy"
    loaded_at = keys._loaded_at
    assert loaded_at is not None
    keys._loaded_at = loaded_at - STALE_S - 1
    found = await keys.check()
    assert (found.status, found.detail) == (
        "degraded",
        "provider keys: they were not read from the store for 61 s",
    )
    await keys.stop()
    assert (await ring(MemoryCredentials(), clock).check()).status == "degraded"


async def test_a_step_of_the_wall_clock_makes_no_read_older() -> None:
    """An hour to either side: the keys were read a moment ago all the same."""
    clock = Clock()
    keys = ring(MemoryCredentials(), clock)
    await keys.start()
    for step_s in (3_600.0, -7_200.0):
        clock.now += step_s
        assert (await keys.check()).status == "healthy"
    await keys.stop()
