"""The breaker over fluxgate: counted failures, one probe, partitions, and its state in health and metrics."""

from __future__ import annotations

import asyncio

import pytest

from narthex.adapters.tokens.breaker import MIN_CALLS, STREAK, BreakerBoard, FluxgateBreaker
from narthex.errors import DependencyError
from narthex.ports.breaker import Breaker, BreakerChange
from tests.adapters.tokens.meters import StateMeter
from tests.timing import within

PAUSE_S = 0.05


async def fail() -> str:
    """An auth service that is down."""
    raise DependencyError("auth", "It is away.")


async def answer() -> str:
    """An auth service that answers, whatever the answer is."""
    return "rejected"


async def odd() -> str:
    """A fault that is not the dependency's."""
    raise ValueError("not its fault")


def board(meter: StateMeter | None = None, pause_s: float = PAUSE_S) -> BreakerBoard:
    """A board that remembers changes."""
    found = meter or StateMeter()
    return BreakerBoard(found, found.changes.append, open_s=pause_s)


async def trip(breaker: Breaker, times: int = STREAK) -> None:
    """Fail until it opens."""
    for _ in range(times):
        with pytest.raises(DependencyError):
            await breaker.call(fail)


async def test_failures_in_a_row_open_it_and_then_nothing_is_tried() -> None:
    """Open means that no call is started, and the error has the time to retry."""
    breaker = board(pause_s=60).get("jwks:a", "user")
    await trip(breaker)
    assert breaker.state == "open"
    with pytest.raises(DependencyError) as caught:
        await breaker.call(answer)
    assert caught.value.code == "circuit_open"
    assert 1 <= caught.value.retry_after_s <= 60


async def test_half_of_ten_calls_failing_opens_it_too() -> None:
    """A service that fails every second time counts as failing."""
    breaker = board(pause_s=60).get("jwks:a", "user")
    for number in range(MIN_CALLS):
        if number % 2:
            with pytest.raises(DependencyError):
                await breaker.call(fail)
        else:
            assert await breaker.call(answer) == "rejected"
    assert breaker.state == "open"


async def test_a_rejected_token_is_a_success() -> None:
    """5,000 answers of any kind leave it closed; so do faults that the dependency did not cause."""
    breaker = board().get("introspection:a", "user")
    for _ in range(5_000):
        await breaker.call(answer)
    for _ in range(50):
        with pytest.raises(ValueError, match="not its fault"):
            await breaker.call(odd)
    assert breaker.state == "closed"


async def test_time_outs_count() -> None:
    """A hung service is a failing one."""

    async def hang() -> str:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(10)
        return "never"

    breaker = board(pause_s=60).get("jwks:a", "user")
    for _ in range(STREAK):
        with pytest.raises(TimeoutError):
            await breaker.call(hang)
    assert breaker.state == "open"


async def test_half_open_lets_one_probe_through_and_turns_the_others_away_at_once() -> None:
    """Of twenty calls after the pause one is tried; the others do not wait for it."""
    breaker = board().get("jwks:a", "user")
    await trip(breaker)
    await asyncio.sleep(PAUSE_S * 2)
    entered = 0
    gate = asyncio.Event()

    async def probe() -> str:
        nonlocal entered
        entered += 1
        await gate.wait()
        return "back"

    probing = asyncio.create_task(breaker.call(probe))
    await asyncio.sleep(0)
    others = await asyncio.gather(*(breaker.call(probe) for _ in range(19)), return_exceptions=True)
    assert all(isinstance(other, DependencyError) for other in others)
    assert breaker.state == "half_open"
    gate.set()
    assert await asyncio.wait_for(probing, within(5)) == "back"
    assert entered == 1
    assert breaker.state == "closed"


async def test_a_failed_probe_opens_it_again_and_a_cancelled_one_lets_the_next_probe() -> None:
    """Neither leaves it half-open for ever."""
    breaker = board().get("jwks:a", "user")
    await trip(breaker)
    await asyncio.sleep(PAUSE_S * 2)
    with pytest.raises(DependencyError, match="away"):
        await breaker.call(fail)
    assert breaker.state == "open"
    await asyncio.sleep(PAUSE_S * 2)

    async def hang() -> str:
        await asyncio.Event().wait()
        return "never"

    probing = asyncio.create_task(breaker.call(hang))
    await asyncio.sleep(0)
    probing.cancel()
    await asyncio.gather(probing, return_exceptions=True)
    assert await breaker.call(answer) == "rejected"
    assert breaker.state == "closed"


async def test_test_traffic_cannot_open_the_users_breaker_nor_the_reverse() -> None:
    """Each traffic class has its own, and so has each dependency."""
    breakers = board(pause_s=60)
    await trip(breakers.get("jwks:a", "e2e"))
    assert breakers.states("jwks:a") == {"e2e": "open"}
    assert await breakers.get("jwks:a", "user").call(answer) == "rejected"
    assert await breakers.get("jwks:b", "e2e").call(answer) == "rejected"
    other = board(pause_s=60)
    await trip(other.get("jwks:a", "user"))
    assert await other.get("jwks:a", "e2e").call(answer) == "rejected"
    assert other.states("jwks:a") == {"user": "open", "e2e": "closed"}


async def test_transitions_reach_metrics_and_log_with_a_reason() -> None:
    """From closed → open → half_open → closed, each once, each with its reason."""
    meter = StateMeter()
    breaker = board(meter).get("jwks:a", "user")
    await trip(breaker)
    await asyncio.sleep(PAUSE_S * 2)
    await breaker.call(answer)
    assert [state for _, _, state in meter.states] == ["closed", "open", "half_open", "closed"]
    assert [(change.before, change.after) for change in meter.changes] == [
        ("closed", "open"),
        ("open", "half_open"),
        ("half_open", "closed"),
    ]
    assert all(change.reason for change in meter.changes)


def test_one_breaker_per_dependency_and_class() -> None:
    """Two requests return the same one."""
    breakers = board()
    assert breakers.get("a", "user") is breakers.get("a", "user")
    assert isinstance(breakers.get("a", "user"), FluxgateBreaker)
    assert BreakerChange.__struct_fields__ == ("dependency", "traffic", "before", "after", "reason")
