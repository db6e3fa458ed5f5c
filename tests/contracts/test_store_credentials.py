"""The contract of `ports/credentials.py`, run by every engine."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from narthex.ports.credentials import RefreshToken, Revocation, SigningKey, User
from narthex.ports.store import Store
from tests.contracts.rigs import StoreRig


def user(user_id: str, email: str, tenant: str = "a") -> User:
    """A user on the early plan."""
    return User(
        user_id=user_id,
        tenant=tenant,
        email=email,
        name="Ann",
        plan="early",
        permissions=("read", "write"),
        password_hash="argon2id",
        created_at=1.0,
    )


def refresh(token_hash: str, family: str = "f1") -> RefreshToken:
    """An unused token that expires at 100."""
    return RefreshToken(
        token_hash=token_hash, family=family, tenant="a", user_id="u1", created_at=1.0, expires_at=100.0
    )


def key(kid: str, *, at: float = 1.0, purpose: str = "provider", retire_at: float = 0.0) -> SigningKey:
    """A signing key."""
    return SigningKey(
        kid=kid,
        purpose=purpose,
        algorithm="ES256",
        jwk="{}",
        created_at=at,
        not_before=at,
        retire_at=retire_at,
    )


class TestUsers:
    """Accounts of the embedded provider."""

    async def test_upsert(self, store: Store) -> None:
        """One account per tenant and lower-case e-mail; id, age and block are those of the first write."""
        kept = await store.credentials.upsert_user(user("u1", "Ann@Example.org"))
        assert kept == user("u1", "ann@example.org")
        assert await store.credentials.block_user("a", "u1", 7.0)
        changed = msgspec.structs.replace(
            user("u2", "ANN@example.org"), name="Anna", plan="mid", permissions=(), created_at=9.0
        )
        again = await store.credentials.upsert_user(changed)
        assert (again.user_id, again.name, again.plan, again.permissions) == ("u1", "Anna", "mid", ())
        assert (again.created_at, again.blocked_at) == (1.0, 7.0)
        assert await store.credentials.user_by_email("a", "aNN@example.org") == again
        assert await store.credentials.user("a", "u1") == again
        assert await store.credentials.user("a", "u2") is None

    async def test_tenants(self, store: Store) -> None:
        """One e-mail in two tenants is two users."""
        await store.credentials.upsert_user(user("u1", "x@y"))
        await store.credentials.upsert_user(user("u1", "x@y", "b"))
        assert await store.credentials.user_by_email("c", "x@y") is None
        assert not await store.credentials.block_user("c", "u1", 1.0)
        assert await store.credentials.block_user("b", "u1", 1.0)
        found = await store.credentials.user("a", "u1")
        assert found is not None
        assert found.blocked_at == 0.0


class TestTickets:
    """Used once."""

    async def test_100_parallel_takes_give_one_ticket(self, store: Store) -> None:
        """Exactly one of 100 gets the identity."""
        await store.credentials.put_ticket("h", '{"subject":"ann"}', 40.0)
        assert await store.credentials.peek_ticket("h", 10.0) == '{"subject":"ann"}'
        taken = await asyncio.gather(*(store.credentials.take_ticket("h", 10.0) for _ in range(100)))
        assert [entry for entry in taken if entry is not None] == ['{"subject":"ann"}']
        assert await store.credentials.peek_ticket("h", 10.0) is None

    async def test_used_across_instances_once(self, store_rig: StoreRig) -> None:
        """Instances on one database share the tickets; where one process owns it, they follow each other."""
        first = store_rig.make()
        await first.start()
        await first.credentials.put_ticket("h", "{}", 40.0)
        if store_rig.shared:
            second = store_rig.make()
            await second.start()
            taken = await asyncio.gather(
                *((first, second)[n % 2].credentials.take_ticket("h", 10.0) for n in range(40))
            )
            await second.stop()
        else:
            taken = [await first.credentials.take_ticket("h", 10.0)]
            await first.stop()
            second = store_rig.make()
            await second.start()
            taken.append(await second.credentials.take_ticket("h", 10.0))
            await second.stop()
        await first.stop()
        assert [entry for entry in taken if entry is not None] == ["{}"]

    async def test_expired(self, store: Store) -> None:
        """An expired ticket is worthless."""
        await store.credentials.put_ticket("h", "{}", 40.0)
        assert await store.credentials.peek_ticket("h", 40.0) is None
        assert await store.credentials.take_ticket("h", 40.0) is None
        assert await store.credentials.take_ticket("unknown", 1.0) is None


class TestRefresh:
    """Rotation and the detection of reuse."""

    async def test_used_once_then_reused(self, store: Store) -> None:
        """Of 50 parallel uses one is `ok`, the others get `reused` with the family."""
        await store.credentials.put_refresh(refresh("h"))
        outcomes = await asyncio.gather(*(store.credentials.use_refresh("h", 10.0) for _ in range(50)))
        assert sorted(outcome for outcome, _ in outcomes) == ["ok"] + ["reused"] * 49
        assert {token.used_at for _, token in outcomes if token} == {10.0}
        assert {token.family for _, token in outcomes if token} == {"f1"}

    async def test_unknown_and_expired(self, store: Store) -> None:
        """Neither can be used."""
        await store.credentials.put_refresh(refresh("h"))
        assert await store.credentials.use_refresh("x", 10.0) == ("unknown", None)
        assert await store.credentials.use_refresh("h", 100.0) == ("unknown", None)

    async def test_revoked_families_and_users(self, store: Store) -> None:
        """A revoked family is gone; others stay until their user is revoked."""
        for name, family in (("h1", "f1"), ("h2", "f1"), ("h3", "f2")):
            await store.credentials.put_refresh(refresh(name, family))
        await store.credentials.revoke_family("f1")
        assert (await store.credentials.use_refresh("h2", 10.0))[0] == "unknown"
        await store.credentials.revoke_user_refresh("b", "u1")
        assert (await store.credentials.use_refresh("h3", 10.0))[0] == "ok"
        await store.credentials.revoke_user_refresh("a", "u1")
        assert (await store.credentials.use_refresh("h3", 10.0))[0] == "unknown"


class TestKeys:
    """Signing keys that all instances agree on."""

    async def test_instances_that_start_together_agree(self, store: Store) -> None:
        """20 instances each add their key if none exists: all get the same one."""
        kept = await asyncio.gather(
            *(store.credentials.add_key(key(f"k{n}"), only_if_none=True) for n in range(20))
        )
        assert len({entry.kid for entry in kept}) == 1
        assert len(await store.credentials.keys("provider")) == 1
        assert await store.credentials.keys("e2e") == []

    async def test_rotation(self, store: Store) -> None:
        """Newest first; a retired key is kept until it expires and does not count as live."""
        await store.credentials.add_key(key("k1", at=1.0))
        await store.credentials.add_key(key("k2", at=2.0))
        assert [entry.kid for entry in await store.credentials.keys("provider")] == ["k2", "k1"]
        assert await store.credentials.retire_key("k1", 50.0)
        assert not await store.credentials.retire_key("k9", 50.0)
        assert await store.credentials.retire_key("k2", 60.0)
        assert (await store.credentials.add_key(key("k3", at=55.0), only_if_none=True)).kid == "k2"
        assert (await store.credentials.add_key(key("k4", at=70.0), only_if_none=True)).kid == "k4"
        assert await store.credentials.expire(50.0) == 1
        assert [entry.kid for entry in await store.credentials.keys("provider")] == ["k4", "k2"]


def jti(number: int, *, until: float = 50.0) -> Revocation:
    """A revocation of one token."""
    return Revocation(kind="jti", tenant="a", value=f"j{number}", at=1.0, until=until)


async def kept(store: Store) -> list[Revocation]:
    """All revocations."""
    return (await store.credentials.revocation_changes(0, 100)).changed


class TestRevocations:
    """Revocations are kept as long as a token that they concern can be valid."""

    async def test_further_reaching_replaces(self, store: Store) -> None:
        """A revocation of the same (kind, tenant, value) can only be extended."""

        def cut(at: float, until: float, before: float) -> Revocation:
            return Revocation(kind="issued_before", tenant="a", value="*", at=at, until=until, cut=before)

        await store.credentials.add_revocation(cut(1.0, 50.0, 10.0))
        await store.credentials.add_revocation(cut(2.0, 40.0, 5.0))
        assert await kept(store) == [cut(1.0, 50.0, 10.0)]
        await store.credentials.add_revocation(cut(3.0, 60.0, 20.0))
        assert await kept(store) == [cut(3.0, 60.0, 20.0)]

    async def test_removed(self, store: Store) -> None:
        """An unblocked user is no longer revoked; the end is a change like any other, and so is a new block."""
        block = Revocation(kind="subject", tenant="a", value="ann", at=1.0, until=50.0, reason="left")
        await store.credentials.add_revocation(block)
        position = (await store.credentials.revocation_changes(0, 10)).position
        assert (await store.credentials.revocation_changes(position, 10)).position == position
        ahead = await store.credentials.revocation_changes(position + 1, 10)  # the store went back in time
        assert (ahead.position, ahead.changed, ahead.more) == (0, [], True)
        assert not await store.credentials.remove_revocation("subject", "b", "ann", 9.0)
        assert await store.credentials.remove_revocation("subject", "a", "ann", 9.0)
        assert not await store.credentials.remove_revocation("subject", "a", "ann", 10.0)
        found = await store.credentials.revocation_changes(position, 10)
        (ended,) = found.changed
        assert (ended.value, ended.until, ended.at) == ("ann", 9.0, 9.0)
        await store.credentials.add_revocation(msgspec.structs.replace(block, at=11.0, until=40.0))
        (again,) = (await store.credentials.revocation_changes(found.position, 10)).changed
        assert again.until == 40.0

    async def test_changes_are_read_once(self, store: Store) -> None:
        """In the order of writing, in pages; a reader that has reached a position reads nothing twice and misses
        nothing.
        """
        credentials = store.credentials
        assert (await credentials.revocation_changes(0, 10)).changed == []
        for number in range(5):
            await credentials.add_revocation(jti(number))
        first = await credentials.revocation_changes(0, 3)
        assert [entry.value for entry in first.changed] == ["j0", "j1", "j2"]
        assert first.more
        second = await credentials.revocation_changes(first.position, 3)
        assert [entry.value for entry in second.changed] == ["j3", "j4"]
        assert not second.more
        assert (await credentials.revocation_changes(second.position, 3)).changed == []
        assert (await credentials.revocation_changes(second.position, 3)).position == second.position
        await credentials.add_revocation(jti(0))  # not an extension: no change
        await credentials.add_revocation(jti(1, until=99.0))
        third = await credentials.revocation_changes(second.position, 3)
        assert [entry.value for entry in third.changed] == ["j1"]

    async def test_a_reader_beside_many_writers_misses_none(self, store: Store) -> None:
        """Positions follow the order of commit: nothing becomes visible behind a position that was already read."""
        credentials = store.credentials
        seen: set[str] = set()
        position = 0

        async def write(writer: int) -> None:
            for number in range(40):
                await credentials.add_revocation(jti(writer * 1_000 + number))

        writing = asyncio.gather(*(write(writer) for writer in range(8)))
        done = False
        while not done:
            done = writing.done()  # before the read, so that it finds all of them
            await asyncio.sleep(0)  # a store in memory never yields to other tasks
            found = await credentials.revocation_changes(position, 500)
            fresh = {entry.value for entry in found.changed}
            assert not fresh & seen
            seen |= fresh
            position = found.position
        await writing
        assert len(seen) == 320

    async def test_what_ended_can_be_read_for_an_hour(self, store: Store) -> None:
        """So that an instance that was disconnected for a while learns of the end; then it is deleted."""
        await store.credentials.add_revocation(jti(1, until=40.0))
        assert await store.credentials.expire(40.0 + 3_599) == 0
        assert [entry.until for entry in (await store.credentials.revocation_changes(0, 10)).changed] == [
            40.0
        ]
        assert await store.credentials.expire(40.0 + 3_600) == 1
        assert (await store.credentials.revocation_changes(0, 10)).changed == []

    async def test_a_clock_that_is_ahead_ends_no_revocation(self, store: Store) -> None:
        """An instance that is a day ahead of the store must not delete a revocation that still matters elsewhere."""
        now = time.time()
        await store.credentials.add_revocation(jti(1, until=now + 7_200))
        assert await store.credentials.expire(now + 86_400.0) == 0
        assert len((await store.credentials.revocation_changes(0, 10)).changed) == 1

    @pytest.mark.parametrize("now", [40.0, 4_000.0])
    async def test_expire(self, store: Store, now: float) -> None:
        """Expired revocations are deleted and counted; the rest stays."""
        credentials = store.credentials
        await credentials.put_ticket("t", "{}", 40.0)
        await credentials.put_refresh(refresh("h"))
        await credentials.add_key(key("old", retire_at=40.0))
        await credentials.add_key(key("live"))
        await credentials.add_revocation(Revocation(kind="jti", tenant="", value="j", at=1.0, until=40.0))
        assert await credentials.expire(now) == (2 if now == 40.0 else 4)
        assert await credentials.expire(now) == 0
        assert [entry.kid for entry in await credentials.keys("provider")] == ["live"]
