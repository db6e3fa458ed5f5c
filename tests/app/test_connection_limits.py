"""`narthex.app.connection_limits`: each limit at N and N+1, and every slot given back exactly once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.app.connection_limits import ConnectionLimiter, ConnectionSlot
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.limits import Limits
from narthex.domain.plans import PLANS, with_overrides
from narthex.domain.refusals import Refusal
from tests.app.handshake_harness import ANN, BOB, Tally


def make_limiter(limits: Limits | None = None, meter: Tally | None = None) -> ConnectionLimiter:
    """A limiter without connections."""
    return ConnectionLimiter(limits or Limits(), PLANS, meter or Tally())


def acquired(found: ConnectionSlot | Refusal) -> ConnectionSlot:
    """An acquired slot."""
    assert isinstance(found, ConnectionSlot), found
    return found


def refused(found: ConnectionSlot | Refusal | None) -> str:
    """The detail of a `connection_limit`."""
    assert isinstance(found, Refusal)
    assert (found.code, found.row.http, found.row.close) == ("connection_limit", 429, 4004)
    assert found.retry_after_s is not None
    return found.detail


@pytest.mark.parametrize("plan", PLANS)
def test_a_user_has_as_many_as_their_plan_allows(plan: str) -> None:
    """N are admitted, the N+1st is not; another user of the same address is; one that closes frees a slot."""
    limiter = make_limiter()
    user = Identity(subject="ann", plan=plan)
    taken = [acquired(limiter.acquire("1.2.3.4", user)) for _ in range(PLANS[plan].connections)]
    assert f"of plan {plan}" in refused(limiter.acquire("1.2.3.4", user))
    assert isinstance(
        limiter.acquire("1.2.3.4", Identity(subject="ann", tenant="acme", plan=plan)), ConnectionSlot
    )
    taken[0].release()
    assert isinstance(limiter.acquire("1.2.3.4", user), ConnectionSlot)


def test_one_limit_for_every_plan() -> None:
    """`max_connections_per_user`."""
    limiter = ConnectionLimiter(Limits(), with_overrides({}, connections=2), Tally())
    for _ in range(2):
        acquired(limiter.acquire("1.2.3.4", ANN))
    refused(limiter.acquire("1.2.3.4", ANN))


def test_an_address_has_its_limit() -> None:
    """Whichever users they are; an IPv6 network counts as one."""
    limiter = make_limiter(Limits(max_connections_per_address=3))
    for n in range(3):
        acquired(limiter.acquire(f"2001:db8::{n}", Identity(subject=f"u{n}")))
    assert "address" in refused(limiter.acquire("2001:db8::ffff", BOB))
    assert limiter.capacity_refusal("2001:db8::ffff") is not None
    assert isinstance(limiter.acquire("1.2.3.4", BOB), ConnectionSlot)


def test_the_unproven_have_theirs() -> None:
    """Inert ones and guests together; authenticated ones are still admitted."""
    limiter = make_limiter(Limits(max_connections_unauthenticated=2))
    acquired(limiter.acquire("1.2.3.4", None))
    acquired(limiter.acquire("1.2.3.4", Identity(subject="g", identity_class=IdentityClass.GUEST)))
    assert "authenticated" in refused(limiter.acquire("1.2.3.4", None))
    assert isinstance(limiter.acquire("1.2.3.4", ANN), ConnectionSlot)


def test_the_process_has_its_own() -> None:
    """Before a credential is verified."""
    limiter = make_limiter(Limits(max_connections=2))
    taken = [acquired(limiter.acquire(f"1.2.3.{n}", Identity(subject=f"u{n}"))) for n in range(2)]
    assert "process" in refused(limiter.capacity_refusal("1.2.3.9"))
    refused(limiter.acquire("1.2.3.9", ANN))
    taken[0].release()
    assert limiter.capacity_refusal("1.2.3.9") is None


def test_authentication_moves_a_slot_to_its_user() -> None:
    """From the unauthenticated into the user's count and class; the user's limit applies at N+1."""
    meter = Tally()
    limiter = make_limiter(meter=meter)
    inert = [acquired(limiter.acquire("1.2.3.4", None)) for _ in range(11)]
    assert (limiter.unproven, limiter.of_user(ANN.user)) == (11, 0)
    tester = Identity(subject="e2e:r", tenant="e2e", e2e=True, identity_class=IdentityClass.E2E)
    for one in inert[:10]:
        assert one.identify(ANN) is None
    assert (limiter.unproven, limiter.of_user(ANN.user)) == (1, 10)
    refused(inert[10].identify(ANN))
    assert (limiter.unproven, limiter.of_user(ANN.user)) == (1, 10)
    assert inert[10].identify(tester) is None
    assert meter.live == {"user": 10, "e2e": 1}
    assert inert[0].identify(ANN) is None  # a refresh of the same user does not count again
    assert limiter.of_user(ANN.user) == 10
    for one in inert:
        one.release()
    assert (limiter.total, limiter.unproven, limiter.of_user(ANN.user), limiter.of_address("1.2.3.4")) == (
        0,
        0,
        0,
        0,
    )
    assert +meter.live == {}


def test_a_slot_is_released_once() -> None:
    """However often it is released; a late authentication counts nothing."""
    limiter = make_limiter()
    one = acquired(limiter.acquire("1.2.3.4", None))
    acquired(limiter.acquire("1.2.3.4", ANN))
    one.release()
    one.release()
    assert one.identify(BOB) is None
    assert (limiter.total, limiter.of_user(BOB.user), limiter.of_user(ANN.user)) == (1, 0, 1)


def test_probes_count_nowhere() -> None:
    """They are admitted even at capacity: health must be able to report that."""
    meter = Tally()
    limiter = make_limiter(Limits(max_connections=1), meter)
    acquired(limiter.acquire("127.0.0.1", ANN))
    probe = acquired(
        limiter.acquire(
            "127.0.0.1", Identity(subject="p", tenant="probe", identity_class=IdentityClass.PROBE)
        )
    )
    probe.release()
    assert (limiter.total, meter.live["probe"]) == (1, 0)


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["take", "identify", "release"]), st.integers(0, 2)),
        max_size=60,
    )
)
def test_counts_are_those_of_the_open_slots(steps: list[tuple[int, str, int]]) -> None:
    """In any order of opening, authenticating and closing, nothing is counted twice and nothing is left over."""
    meter = Tally()
    limiter = make_limiter(Limits(max_connections=8, max_connections_unauthenticated=3), meter)
    users = [None, ANN, Identity(subject="g", identity_class=IdentityClass.GUEST)]
    taken: list[ConnectionSlot] = []
    live: set[ConnectionSlot] = set()
    for which, step, who in steps:
        if step == "take":
            found = limiter.acquire(f"1.2.3.{which}", users[who])
            if isinstance(found, ConnectionSlot):
                taken.append(found)
                live.add(found)
        elif taken and step == "identify":
            taken[which % len(taken)].identify(BOB)
        elif taken:
            taken[which % len(taken)].release()
            live.discard(taken[which % len(taken)])
        assert limiter.total == len(live) == sum(meter.live.values())
        assert 0 <= limiter.unproven <= 3
    for one in taken:
        one.release()
    assert (limiter.total, limiter.unproven, limiter.of_user(ANN.user), limiter.of_user(BOB.user)) == (
        0,
        0,
        0,
        0,
    )


def inert(limiter: ConnectionLimiter, address: str) -> tuple[ConnectionSlot, list[Refusal]]:
    """An inert slot whose connection notes that it is closed."""
    closed: list[Refusal] = []
    taken = acquired(limiter.acquire(address, None))
    taken.allow_eviction(closed.append)
    return taken, closed


def test_one_address_does_not_take_the_inert_places_of_others() -> None:
    """Item 13: a harness elsewhere is admitted; the oldest of the address with the most is evicted, with a reason."""
    limiter = make_limiter(Limits(max_connections_unauthenticated=10))
    flood = [inert(limiter, "6.6.6.6") for _ in range(10)]
    assert limiter.would_refuse("1.2.3.4", None) is None
    harness = [inert(limiter, "1.2.3.4") for _ in range(5)]
    assert [len(closed) for _, closed in flood] == [1] * 5 + [0] * 5
    assert refused(flood[0][1][0])
    assert limiter.unproven == 10
    assert "authenticated" in refused(
        limiter.acquire("1.2.3.4", None)
    )  # half and half: neither address has more
    assert "authenticated" in refused(limiter.acquire("6.6.6.6", None))
    inert(limiter, "7.7.7.7")
    assert limiter.unproven == 10
    for one, _ in (*flood, *harness):
        one.release()
    assert (limiter.unproven, limiter.total) == (1, 1)


def test_guests_are_not_closed_and_one_address_has_half() -> None:
    """Guests are admitted: they keep their slots, and leave half of them to other addresses."""
    limiter = make_limiter(Limits(max_connections_unauthenticated=8))
    guests = [Identity(subject=f"g{n}", identity_class=IdentityClass.GUEST) for n in range(6)]
    for guest in guests[:4]:
        acquired(limiter.acquire("6.6.6.6", guest))
    assert "guest" in refused(limiter.acquire("6.6.6.6", guests[4]))
    for n in range(4):
        inert(limiter, f"1.1.1.{n}")
    assert "authenticated" in refused(
        limiter.acquire("6.6.6.7", guests[5])
    )  # no address has inert ones to spare


def test_an_authenticated_slot_is_not_evicted() -> None:
    """Only inert ones are closed."""
    limiter = make_limiter(Limits(max_connections_unauthenticated=3))
    taken = [inert(limiter, "6.6.6.6") for _ in range(3)]
    assert taken[0][0].identify(ANN) is None
    inert(limiter, "6.6.6.6")
    inert(limiter, "1.2.3.4")
    assert [len(closed) for _, closed in taken] == [0, 1, 0]
