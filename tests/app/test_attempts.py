"""Counting failures: exact at N and N+1, a sliding window, and bounded memory."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from narthex.app.attempts import Attempts, PendingAttempts


def test_n_failures_are_allowed_and_the_next_try_waits() -> None:
    """At the limit the key waits until the oldest failure has expired; then one more is allowed, not all."""
    attempts = Attempts(3, 60)
    for moment in (0.0, 10.0, 20.0):
        assert attempts.wait_s("a", moment) == 0
        attempts.failed("a", moment)
    assert attempts.wait_s("a", 20.0) == 40
    assert attempts.wait_s("b", 20.0) == 0
    assert attempts.wait_s("a", 60.0) == 0
    attempts.failed("a", 60.0)
    assert attempts.wait_s("a", 60.0) == 10


def test_a_burst_around_a_minutes_end_is_no_way_round() -> None:
    """Nine attempts just before a fixed window's end and ten just after would be nineteen in two seconds."""
    attempts = Attempts(10, 60)
    passed = 0
    for moment in (0.0, *(59.0 + number / 100 for number in range(200))):
        if attempts.wait_s("a", moment) == 0:
            attempts.failed("a", moment)
            passed += 1
    assert passed == 11  # the first one expires after 60 s


def test_success_forgets() -> None:
    """A success resets the count."""
    attempts = Attempts(1, 60)
    attempts.failed("a", 0)
    attempts.succeeded("a")
    assert attempts.wait_s("a", 1) == 0


def test_what_was_no_failure_is_taken_back() -> None:
    """Counted before the outcome is known, so that parallel attempts count; then forgiven."""
    attempts = Attempts(2, 60)
    for _ in range(100):
        assert attempts.wait_s("a", 0) == 0
        attempts.failed("a", 0)
        attempts.forgive("a")
    attempts.forgive("unknown")
    assert attempts.wait_s("unknown", 0) == 0


def test_memory_is_bounded() -> None:
    """The oldest keys are dropped first."""
    attempts = Attempts(1, 60, max_entries=10)
    for number in range(100):
        attempts.failed(str(number), 0)
    assert len(attempts) == 10
    assert attempts.wait_s("99", 1) > 0
    assert attempts.wait_s("0", 1) == 0


def test_a_key_keeps_no_more_than_its_limit() -> None:
    """Attempts admitted together all count, and the newest longest; none is kept beyond the limit."""
    attempts = Attempts(3, 60)
    for moment in range(100):
        attempts.failed("a", moment / 10)
    assert attempts.wait_s("a", 10.0) == 9.7 + 60 - 10.0
    assert attempts.wait_s("a", 69.9) == 0
    assert len(attempts) == 0


@given(st.lists(st.floats(0, 1_000), max_size=50).map(sorted))
def test_never_more_than_the_limit_in_one_window(moments: list[float]) -> None:
    """Whenever attempts come, no minute has more than the limit."""
    attempts = Attempts(5, 60)
    passed: list[float] = []
    for moment in moments:
        if attempts.wait_s("a", moment) == 0:
            attempts.failed("a", moment)
            passed.append(moment)
    for index, moment in enumerate(passed):
        assert sum(other - moment < 60 for other in passed[index:]) <= 5


class Judge:
    """Attempts whose verification takes a turn of the loop, or lasts until released."""

    def __init__(self, limit: int, *, patience_s: float = 5.0) -> None:
        self.address = Attempts(limit, 60)
        self.pending_attempts = PendingAttempts(
            self.address, Attempts(100, 60), now=lambda: 0.0, patience_s=patience_s
        )
        self.released = asyncio.Event()
        self.begun = asyncio.Event()  # as many are being verified as the limit allows
        self.limit = limit
        self.judged = 0

    async def attempt(self, *, right: bool) -> bool:
        """Whether the attempt was verified."""
        async with self.pending_attempts.attempt("a", "everybody") as attempt:
            if attempt.wait_s > 0:
                return False
            self.judged += 1
            if self.judged == self.limit:
                self.begun.set()
            await self.released.wait()
            attempt.right = right
            return True

    async def attempts(self, count: int, *, right: bool) -> list[bool]:
        """This many at once."""
        return list(await asyncio.gather(*(self.attempt(right=right) for _ in range(count))))


async def test_right_secrets_are_not_limited_however_many_come_at_once() -> None:
    """They wait for those in progress, and none stays counted."""
    judge = Judge(3)
    found = asyncio.create_task(judge.attempts(20, right=True))
    await judge.begun.wait()
    assert judge.judged == 3
    judge.released.set()
    assert await found == [True] * 20
    assert len(judge.address) == 0 or judge.address.wait_s("a", 0.0) == 0


async def test_wrong_secrets_are_judged_up_to_the_limit_however_many_come_at_once() -> None:
    """Whether they are verified at once or later."""
    judge = Judge(3)
    judge.released.set()
    assert sorted(await judge.attempts(20, right=False)) == [False] * 17 + [True] * 3
    assert judge.judged == 3
    assert await judge.attempts(1, right=True) == [False]


async def test_an_attempt_waits_for_others_only_so_long() -> None:
    """A verification that hangs refuses the others after their time-out, and not for ever."""
    judge = Judge(1, patience_s=0.01)
    hanging = asyncio.create_task(judge.attempt(right=True))
    await judge.begun.wait()
    assert await judge.attempt(right=True) is False
    judge.released.set()
    assert await hanging is True
    assert await judge.attempt(right=True) is True


async def test_an_attempt_that_is_abandoned_stays_counted() -> None:
    """Its connection ended before the verdict: it may have been a guess. Waiting attempts go on."""
    judge = Judge(1)
    abandoned = asyncio.create_task(judge.attempt(right=True))
    await judge.begun.wait()
    waiting = asyncio.create_task(judge.attempt(right=True))
    await asyncio.sleep(0)
    abandoned.cancel()
    assert await waiting is False
