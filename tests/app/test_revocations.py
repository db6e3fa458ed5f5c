"""Revocations: the effect of each kind, on this instance at once, on others by broadcast or poll."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from narthex.adapters.stores.sql.operation import Operation
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.app import revocations as module
from narthex.app.revocations import Revocations
from narthex.domain.identity import Identity
from narthex.errors import DependencyError
from narthex.ports.broker import Broker, Control
from narthex.ports.credentials import Revocation, RevocationChanges
from narthex.ports.store import AuditRecord
from tests.adapters.tokens.issuer import NOW
from tests.adapters.tokens.memory import MemoryCredentials, as_port
from tests.timing import within

ALICE = Identity(subject="alice", tenant="acme", token_id="t-1", issued_at=NOW - 10, expires_at=NOW + 600)


class ControlBroker:
    """The parts of a broker that revocations use: delivers controls to every instance, or loses them."""

    def __init__(self) -> None:
        self.instances: list[Revocations] = []
        self.lose = False
        self.away = False
        self.sent: list[Control] = []

    async def control(self, message: Control) -> None:
        if self.away:
            raise DependencyError("broker", "The broker is away.", "Wait.")
        self.sent.append(message)
        if not self.lose:
            wire = msgspec.json.decode(msgspec.json.encode(message), type=Control)  # as over a network
            for instance in self.instances:
                instance.control(wire)


def pair() -> tuple[Revocations, Revocations, MemoryCredentials, ControlBroker]:
    """Two instances over one store and one broker."""
    store, broker = MemoryCredentials(), ControlBroker()
    port: Broker = broker  # type: ignore[assignment] # only `control` is asked for
    one, two = (Revocations(as_port(store), port, clock=lambda: NOW) for _ in range(2))
    broker.instances = [one, two]
    return one, two, store, broker


async def test_by_jti_one_token_ends_and_no_other() -> None:
    """Another token of the same user, and the same jti in another tenant, stay valid."""
    one, two, _, _ = pair()
    assert not one.covers(ALICE)
    await one.revoke_token(ALICE, reason="logout")
    for instance in (one, two):
        assert instance.covers(ALICE)
        assert not instance.covers(msgspec.structs.replace(ALICE, token_id="t-2"))
        assert not instance.covers(msgspec.structs.replace(ALICE, tenant="other"))


async def test_by_subject_every_token_ends_until_it_is_allowed_again() -> None:
    """Also tokens issued later: a block. All instances learn of its end by the next poll."""
    one, two, _, _ = pair()
    await one.revoke_subject("acme", "alice", until=NOW + 1e6, reason="blocked")
    later = msgspec.structs.replace(ALICE, token_id="t-9", issued_at=NOW + 100)
    assert one.covers(later)
    assert two.covers(later)
    assert not two.covers(msgspec.structs.replace(ALICE, subject="bob"))
    assert await one.allow_subject("acme", "alice", reason="appeal")
    assert not one.covers(later)
    await two.reload()
    assert not two.covers(later)
    assert not await one.allow_subject("acme", "alice", reason="appeal")


@pytest.mark.parametrize(
    ("subject", "issued_at", "covered"),
    [
        ("alice", NOW - 1, True),
        ("alice", NOW, False),
        ("alice", None, True),
        ("bob", NOW - 1, False),
    ],
)
async def test_issued_before_covers_what_is_older_and_what_has_no_iat(
    subject: str, issued_at: float | None, covered: bool
) -> None:
    """A token without `iat` counts as issued before any cut."""
    one, two, _, _ = pair()
    await one.revoke(issued_before_now("alice"))
    identity = Identity(subject=subject, tenant="acme", issued_at=issued_at)
    assert one.covers(identity) is covered
    assert two.covers(identity) is covered


def issued_before_now(subject: str) -> Revocation:
    """Of everything that the subject was issued before `NOW`."""
    return Revocation(
        kind="issued_before", tenant="acme", value=subject, at=NOW, cut=NOW, until=NOW + 3600, reason="leak"
    )


async def test_a_whole_tenant_can_be_cut() -> None:
    """`*` means all users of the tenant only."""
    one, _, _, _ = pair()
    await one.revoke(issued_before_now("*"))
    assert one.covers(Identity(subject="anyone", tenant="acme", issued_at=NOW - 1))
    assert not one.covers(Identity(subject="anyone", tenant="other", issued_at=NOW - 1))


async def test_a_token_without_a_jti_is_revoked_by_its_moment() -> None:
    """It and older ones end; later ones stay valid."""
    one, _, _, _ = pair()
    nameless = msgspec.structs.replace(ALICE, token_id="")
    await one.revoke_token(nameless, reason="logout")
    assert one.covers(nameless)
    assert not one.covers(msgspec.structs.replace(nameless, issued_at=NOW + 2))


async def test_listeners_hear_of_each_once() -> None:
    """The instance that revoked and the one that received it, once each, however often it arrives."""
    one, two, _, broker = pair()
    heard: list[tuple[str, str]] = []
    one.listen(lambda found: heard.extend(("one", entry.value) for entry in found))
    two.listen(lambda found: heard.extend(("two", entry.value) for entry in found))
    await one.revoke_token(ALICE, reason="logout")
    await two.reload()
    two.control(broker.sent[0])
    assert sorted(heard) == [("one", "t-1"), ("two", "t-1")]


async def test_a_lost_broadcast_is_found_by_the_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is authoritative: without any control message every instance learns of it."""
    monkeypatch.setattr(module, "POLL_EVERY_S", 0.01)
    one, two, _, broker = pair()
    broker.lose = True
    heard = asyncio.Event()
    two.listen(lambda _: heard.set())
    await two.start()
    await one.revoke_token(ALICE, reason="logout")
    assert not two.covers(ALICE)
    await asyncio.wait_for(heard.wait(), within(5))
    assert two.covers(ALICE)
    await two.stop()


async def test_what_is_not_stored_is_not_revoked_and_a_broker_away_changes_nothing() -> None:
    """Order: stored, applied, broadcast."""
    one, two, store, broker = pair()
    store.away = True
    with pytest.raises(DependencyError):
        await one.revoke_token(ALICE, reason="logout")
    assert not one.covers(ALICE)
    assert not broker.sent
    store.away, broker.away = False, True
    await one.revoke_token(ALICE, reason="logout")
    assert one.covers(ALICE)
    await two.reload()
    assert two.covers(ALICE)


async def test_a_store_that_goes_away_keeps_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The poll reports it and continues; no revoked user is admitted."""
    monkeypatch.setattr(module, "POLL_EVERY_S", 0.01)
    store, told = MemoryCredentials(), asyncio.Event()
    one = Revocations(as_port(store), None, clock=lambda: NOW, on_error=lambda _: told.set())
    await one.start()
    await one.revoke_token(ALICE, reason="logout")
    store.away = True
    await asyncio.wait_for(told.wait(), within(5))
    assert one.covers(ALICE)
    await one.stop()


async def test_without_the_store_nobody_starts() -> None:
    """Failing open at the start would admit revoked users."""
    store = MemoryCredentials()
    store.away = True
    with pytest.raises(DependencyError):
        await Revocations(as_port(store), None).start()


async def test_they_are_kept_until_exp_with_leeway_and_grace_then_forgotten() -> None:
    """`until` is the token's end plus 55 s; memory does not grow for ever."""
    now = NOW
    store = MemoryCredentials()
    one = Revocations(as_port(store), None, clock=lambda: now)
    await one.revoke_token(ALICE, reason="logout")
    (kept,) = store.kept_revocations.values()
    assert kept.until == NOW + 600 + 55
    now = kept.until - 1
    await one.reload()
    assert len(one) == 1
    now = kept.until + 1
    await one.reload()
    assert len(one) == 0


async def test_what_comes_while_the_store_is_read_is_not_forgotten() -> None:
    """A control message between the read's snapshot and its end stays."""
    store = MemoryCredentials()
    one = Revocations(as_port(store), None, clock=lambda: NOW)
    fresh = Revocation(kind="jti", tenant="acme", value="t-1", at=NOW, until=NOW + 60)
    original = store.revocation_changes

    async def slow(after: int, limit: int) -> RevocationChanges:
        found = await original(after, limit)
        one.control(Control("revoke", msgspec.to_builtins(fresh)))
        return found

    store.revocation_changes = slow  # type: ignore[method-assign] # the race that a real store's latency makes
    await one.reload()
    assert one.covers(ALICE)


async def test_operators_revocations_are_recorded_and_logouts_are_not() -> None:
    """The user, time and reason can be shown later; a record that fails changes nothing."""
    records: list[AuditRecord] = []

    class Audits:
        away = False

        async def audit(self, record: AuditRecord) -> None:
            if self.away:
                raise DependencyError("store", "The store is away.", "Wait.")
            records.append(record)

    audits = Audits()
    one = Revocations(
        as_port(MemoryCredentials()),
        None,
        records=audits,  # type: ignore[arg-type] # only `audit` is asked for
        clock=lambda: NOW,
    )
    await one.revoke_token(ALICE, reason="logout")
    assert not records
    await one.revoke_subject("acme", "alice", until=NOW + 60, reason="abuse")
    (record,) = records
    assert (record.kind, record.tenant, record.subject) == ("revocation", "acme", "alice")
    assert json.loads(record.detail)["reason"] == "abuse"
    assert not await one.allow_subject(
        "acme", "carol", reason="a mistake"
    )  # nothing ended: nothing to record
    assert await one.allow_subject("acme", "alice", reason="an appeal")
    ended = records[-1]
    assert len(records) == 2
    assert (ended.kind, ended.tenant, ended.subject) == ("revocation_ended", "acme", "alice")
    assert json.loads(ended.detail)["reason"] == "an appeal"
    audits.away = True
    await one.revoke_subject("acme", "bob", until=NOW + 60, reason="abuse")
    assert one.covers(Identity(subject="bob", tenant="acme"))


async def test_a_malformed_control_is_left_to_the_poll() -> None:
    """No exception reaches the broker's loop."""
    one, _, _, _ = pair()
    for data in (
        {},
        {"kind": 1},
        {"kind": "jti"},
        {"kind": "strange", "tenant": "", "value": "", "at": 0, "until": 9},
    ):
        one.control(Control("revoke", dict(data)))
    assert len(one) == 0


@pytest.mark.alone
def test_asking_costs_nothing_when_nothing_is_revoked() -> None:
    """The hot path: under a microsecond, also among a hundred thousand."""
    import time

    one, _, _, _ = pair()

    def cost() -> float:
        began = time.perf_counter()
        for _ in range(10_000):
            one.covers(ALICE)
        return (time.perf_counter() - began) / 10_000

    assert min(cost() for _ in range(5)) < 2e-6
    for number in range(100_000):
        found = Revocation(kind="jti", tenant="acme", value=f"x-{number}", at=NOW, until=NOW + 60)
        one.control(Control("revoke", msgspec.to_builtins(found)))
    assert min(cost() for _ in range(5)) < 5e-6


async def test_a_poll_reads_only_what_changed() -> None:
    """Known ones cost nothing again: with a thousand kept, a poll returns the one new one."""
    one, two, store, broker = pair()
    broker.lose = True
    for number in range(1_000):
        await store.add_revocation(
            Revocation(kind="jti", tenant="acme", value=f"x-{number}", at=NOW, until=NOW + 60)
        )
    await two.reload()
    given: list[int] = []
    original = store.revocation_changes

    async def counting(after: int, limit: int) -> RevocationChanges:
        found = await original(after, limit)
        given.append(len(found.changed))
        return found

    store.revocation_changes = counting  # type: ignore[method-assign] # counts what the store is asked for
    await two.refresh()
    await one.revoke_token(ALICE, reason="logout")
    await two.refresh()
    assert two.covers(ALICE)
    assert given == [0, 1]


async def test_one_read_tells_listeners_once() -> None:
    """However many there are: a listener that closes sockets checks each of them once."""
    one, _, store, _ = pair()
    heard: list[int] = []
    one.listen(lambda found: heard.append(len(found)))
    for number in range(500):
        await store.add_revocation(
            Revocation(kind="jti", tenant="acme", value=f"x-{number}", at=NOW, until=NOW + 60)
        )
    await one.refresh()
    assert heard == [500]


async def test_the_end_of_a_block_is_heard_by_the_poll_and_a_late_broadcast_changes_nothing() -> None:
    """A control message that was in flight when the block ended does not restore it; a new block does."""
    now = NOW
    store, broker = MemoryCredentials(), ControlBroker()
    port: Broker = broker  # type: ignore[assignment] # only `control` is asked for
    one, two = (Revocations(as_port(store), port, clock=lambda: now) for _ in range(2))
    broker.instances = [one, two]
    await one.revoke_subject("acme", "alice", until=NOW + 1e6, reason="abuse")
    late = broker.sent[-1]
    now += 5
    assert await one.allow_subject("acme", "alice", reason="appeal")
    await two.refresh()
    for instance in (one, two):
        assert not instance.covers(ALICE)
        instance.control(late)
        assert not instance.covers(ALICE)
    now += 5
    await two.revoke_subject("acme", "alice", until=NOW + 1e6, reason="again")
    assert one.covers(ALICE)
    await one.refresh()
    assert one.covers(ALICE)


async def test_a_slow_clock_hears_of_the_end_of_a_block_too() -> None:
    """The clock of the instance that ended it may be seconds ahead: an end in the past has ended on every clock."""
    store, broker = MemoryCredentials(), ControlBroker()
    port: Broker = broker  # type: ignore[assignment] # only `control` is asked for
    ahead = Revocations(as_port(store), port, clock=lambda: NOW + 3)
    behind = Revocations(as_port(store), port, clock=lambda: NOW)
    broker.instances = [ahead, behind]
    await ahead.revoke_subject("acme", "alice", until=NOW + 1e6, reason="abuse")
    await behind.refresh()
    assert behind.covers(ALICE)
    assert await ahead.allow_subject("acme", "alice", reason="appeal")
    await behind.refresh()
    assert not behind.covers(ALICE)


async def test_what_has_ended_covers_nobody_before_it_is_forgotten() -> None:
    """`until` counts to the second, not to the next whole read."""
    now = NOW
    one = Revocations(as_port(MemoryCredentials()), None, clock=lambda: now)
    await one.revoke_subject("acme", "alice", until=NOW + 60, reason="a pause")
    now = NOW + 59
    assert one.covers(ALICE)
    now = NOW + 60
    assert not one.covers(ALICE)


async def test_a_revocation_outlives_whatever_leeway_is_configured() -> None:
    """With a leeway of five minutes a token is valid that long after `exp`; a forgotten revocation would admit it
    again.
    """
    store = MemoryCredentials()
    one = Revocations(as_port(store), None, clock=lambda: NOW, after_exp_s=300 + 25)
    await one.revoke_token(ALICE, reason="logout")
    (kept,) = store.kept_revocations.values()
    assert kept.until == (ALICE.expires_at or 0) + 325


async def test_by_session_every_token_of_a_sign_in_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others of the same user stay valid, and so does a session with that name in another tenant."""
    one, two, store, _ = pair()
    member = msgspec.structs.replace(ALICE, session="s-1")
    await one.revoke_session("acme", "s-1", max_ttl_s=600, reason="logout")
    for instance in (one, two):
        assert instance.covers(member)
        assert instance.covers(msgspec.structs.replace(member, token_id="t-2"))
        assert not instance.covers(ALICE)
        assert not instance.covers(msgspec.structs.replace(member, session="s-2"))
        assert not instance.covers(msgspec.structs.replace(member, tenant="other"))
    (kept,) = store.kept_revocations.values()
    assert kept.until == NOW + 600 + one.after_exp_s


async def test_what_ended_is_remembered_as_long_as_a_broadcast_can_be_late() -> None:
    """Not for ever: the table has the revocations that ended since the last but one whole read."""
    store, now = MemoryCredentials(), NOW
    instance = Revocations(as_port(store), None, clock=lambda: now)
    await instance.revoke_subject("acme", "alice", until=NOW + 10_000, reason="block")
    await instance.allow_subject("acme", "alice", reason="over")
    late = msgspec.to_builtins(
        Revocation(kind="subject", tenant="acme", value="alice", at=NOW - 1, until=NOW + 10_000)
    )
    now += module.RELOAD_EVERY_S - 1
    await instance.reload()
    instance.control(Control("revoke", late))
    assert not instance.covers(ALICE), "a broadcast from before the end"
    now += 1
    await instance.reload()
    assert instance._ended == {}


async def test_a_revocation_after_the_store_went_back_in_time_is_found_by_the_poll(tmp_path: Path) -> None:
    """It has the number of one that the store lost, which this instance has read; its broadcast is lost."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    one, two = (Revocations(store.credentials, None, clock=lambda: NOW) for _ in range(2))
    await one.revoke_subject("acme", "carol", until=NOW + 1e6, reason="blocked")
    await two.refresh()

    def forget() -> Operation[None]:
        yield "DELETE FROM revocations", ()
        yield "UPDATE counters SET value = 0 WHERE name = 'revocations'", ()

    await store._engine.write(forget())  # a store that goes back in time has no port
    await two.refresh()
    await one.revoke_subject("acme", "alice", until=NOW + 1e6, reason="blocked")
    await two.refresh()
    assert two.covers(ALICE)
    assert two.covers(msgspec.structs.replace(ALICE, subject="carol"))  # until it reads everything again
    await store.stop()


async def test_a_kind_of_a_newer_node_ends_nothing_here() -> None:
    """Its revocation and its end are passed over, and the others of the same read count."""
    one, _, store, _ = pair()
    newer = msgspec.structs.replace(issued_before_now("alice"), kind="device")
    await store.add_revocation(newer)
    await store.add_revocation(msgspec.structs.replace(newer, value="bob", until=NOW - 1))
    await store.add_revocation(issued_before_now("alice"))
    await one.reload()
    assert one.covers(Identity(subject="alice", tenant="acme", issued_at=NOW - 1))
    assert len(one) == 1
