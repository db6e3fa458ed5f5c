"""What a gateway reports of itself: by its checks and by its counters."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.domain.runs import RUN_ERRORS
from narthex.errors import DependencyError
from narthex.status.measurements import Sample
from narthex.status.sampling import RUN_FAULTS, Sampler
from tests.timing import within

GOOD = {"status": "healthy", "latency_ms": 2.0}
BAD = {"status": "unhealthy", "latency_ms": 9.0}
MEDIUM = {"status": "degraded", "latency_ms": 5.0}


class Checks:
    """A health report that a test sets."""

    def __init__(self, **checks: dict[str, Any]) -> None:
        self.checks: dict[str, Any] = (
            dict.fromkeys(("handshake", "auth", "broker", "store", "agents"), GOOD) | checks
        )
        self.known = list(self.checks)

    @property
    def names(self) -> Collection[str]:
        """See `Health`."""
        return self.known

    async def report(self, *, fresh: bool = False) -> dict[str, Any]:
        """See `Health`."""
        assert fresh, "a cached result is up to 2 s old"
        return {"checks": self.checks}


def sampler(
    checks: Checks, meter: PrometheusMeter | None = None, fault: object = None, record: Any = None
) -> Sampler:
    return Sampler(checks, lambda: fault, meter or PrometheusMeter(), "node-1", record, get_logger("test"))


def shown(samples: list[Sample], kind: str) -> dict[str, tuple[int, int, int]]:
    return {one.component: (one.good, one.degraded, one.failed) for one in samples if one.kind == kind}


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ({}, {"connect": "g", "send": "g", "stream": "g", "sign_in": "g"}),
        ({"handshake": BAD}, {"connect": "f", "send": "g", "stream": "g", "sign_in": "g"}),
        ({"broker": BAD}, {"connect": "g", "send": "f", "stream": "f", "sign_in": "g"}),
        ({"store": BAD}, {"connect": "g", "send": "f", "stream": "g", "sign_in": "g"}),
        ({"agents": MEDIUM}, {"connect": "g", "send": "g", "stream": "d", "sign_in": "g"}),
        ({"auth": MEDIUM}, {"connect": "g", "send": "g", "stream": "g", "sign_in": "d"}),
    ],
)
async def test_each_journey_needs_its_checks(failing: dict[str, Any], expected: dict[str, str]) -> None:
    """By docs/status-page.md."""
    found = shown(await sampler(Checks(**failing)).round(), "health")
    letters = {"g": (1, 0, 0), "d": (0, 1, 0), "f": (0, 0, 1)}
    assert found == {journey: letters[letter] for journey, letter in expected.items()}


async def test_a_guard_samples_what_it_has() -> None:
    """Without a broker and agents it says nothing of sending and receiving."""
    checks = Checks()
    del checks.checks["broker"], checks.checks["agents"]
    checks.known = list(checks.checks)
    assert set(shown(await sampler(checks).round(), "health")) == {"connect", "sign_in"}
    checks.checks = {}
    cannot_start = sampler(checks, fault=("store", OSError()))
    assert set(shown(await cannot_start.round(), "health")) == {"connect", "sign_in"}


async def test_an_instance_that_starts_or_drains_says_nothing() -> None:
    """Others answer meanwhile; but one that an engine keeps from starting has failed."""
    checks = Checks()
    checks.checks = {}
    assert await sampler(checks).round() == []
    found = shown(await sampler(checks, fault=("store", OSError())).round(), "health")
    assert found == dict.fromkeys(("connect", "send", "stream", "sign_in"), (0, 0, 1))


async def test_only_what_is_the_services_fault_is_a_failure() -> None:
    """A bad credential is traffic that went well; test identities and the gateway's own probe are none at all."""
    meter = PrometheusMeter()
    one = sampler(Checks(), meter)
    for outcome, code, traffic, times in (
        ("admitted", "ok", "user", 6),
        ("refused", "token_invalid", "user", 5),
        ("refused", "connection_limit", "user", 1),
        ("refused", "auth_unavailable", "user", 3),
        ("refused", "overloaded", "guest", 1),
        ("refused", "internal", "user", 1),
        ("refused", "draining", "user", 50),
        ("refused", "starting", "user", 50),
        ("refused", "auth_unavailable", "e2e", 50),
        ("admitted", "ok", "probe", 50),
    ):
        for _ in range(times):
            meter.handshake(outcome, code, traffic, 0.001)
    assert shown(await one.round(), "traffic") == {"connect": (12, 0, 5)}
    assert shown(await one.round(), "traffic") == {}  # each is counted once
    meter.handshake("admitted", "ok", "user", 0.001)
    assert shown(await one.round(), "traffic") == {"connect": (1, 0, 0)}


async def test_a_cancelled_run_did_not_fail() -> None:
    """A run that ended with an error did, whatever its code."""
    meter = PrometheusMeter()
    one = sampler(Checks(), meter)
    for state, error in (
        ("finished", ""),
        ("cancelled", ""),
        ("failed", "agent_failed"),
        ("failed", "owner_lost"),
    ):
        meter.count("runs", state=state, error=error)
    assert shown(await one.round(), "traffic") == {"stream": (2, 0, 2)}


async def test_commands_that_send_are_traffic_of_send() -> None:
    """An engine that is away or a bug is a failure; a bad request, a full quota and other commands are not."""
    meter = PrometheusMeter()
    one = sampler(Checks(), meter)
    for method, result, times in (
        ("rpc:run.start", "ok", 4),
        ("rpc:run.start", "429", 2),
        ("rpc:run.start", "404", 1),
        ("rpc:run.start", "503", 3),
        ("publish", "100", 2),
        ("publish", "108", 1),
        ("rpc:run.resume", "ok", 1),
        ("rpc:thread.list", "503", 50),
        ("connect", "ok", 50),
    ):
        for _ in range(times):
            meter.count("commands", method=method, result=result)
    assert shown(await one.round(), "traffic") == {"send": (9, 0, 5)}


async def test_sign_ins_and_refreshes_are_traffic_of_sign_in() -> None:
    """A wrong password is a sign-in that went well; a store or an issuer that is away is a failure."""
    meter = PrometheusMeter()
    one = sampler(Checks(), meter)
    for method, result in (
        ("password", "ok"),
        ("password", "login_failed"),
        ("oidc", "unavailable"),
        ("open", "rate_limited"),
    ):
        meter.count("sign_ins", method=method, result=result)
    for surface, result in (
        ("session", "ok"),
        ("session", "refresh_invalid"),
        ("session", "unavailable"),
        ("connection", "token_expired"),
        ("connection", "auth_unavailable"),
    ):
        meter.count("token_refreshes", surface=surface, result=result)
    assert shown(await one.round(), "traffic") == {"sign_in": (6, 0, 3)}


async def test_a_check_that_hangs_does_not_delay_the_next_round() -> None:
    """Rounds begin at a steady pace: a check's time-out must not add to the time in which an outage is seen."""
    checks, taken = Checks(broker=BAD), asyncio.Event()
    begins: list[float] = []
    loop = asyncio.get_running_loop()
    report = checks.report

    async def slow(*, fresh: bool = False) -> dict[str, Any]:
        begins.append(loop.time())
        await asyncio.sleep(0.3)
        if len(begins) == 3:
            taken.set()
        return await report(fresh=fresh)

    async def record(_: Sequence[Sample]) -> None:
        return

    checks.report = slow  # type: ignore[method-assign]
    one = Sampler(checks, lambda: None, PrometheusMeter(), "n", record, get_logger("test"), interval_s=0.4)
    await one.start()
    async with asyncio.timeout(within(10)):
        await taken.wait()
    await one.stop()
    assert min(later - earlier for earlier, later in pairwise(begins)) < 0.6, "not 0.3 and 0.4 s"


def test_every_code_of_a_failed_run_is_judged() -> None:
    """A new one is a decision, not an oversight: only a drain that ended a run is not the service's fault."""
    assert set(RUN_ERRORS) - RUN_FAULTS == {"draining"}


async def test_a_page_that_takes_no_samples_is_logged_once() -> None:
    """And so is that it takes them again."""
    answers = [
        DependencyError("status", "It is away.", "Start it."),
        DependencyError("status", "It is away.", "Start it."),
        None,
    ]
    taken = asyncio.Event()

    async def record(samples: Sequence[Sample]) -> None:
        assert samples
        answer = answers.pop(0) if answers else None
        if answer is not None:
            raise answer
        taken.set()

    log = CapturingLogger()  # of its own: a level that an earlier test has set does not reach it
    one = Sampler(Checks(), lambda: None, PrometheusMeter(), "n", record, log, interval_s=0.001)
    await one.start()
    async with asyncio.timeout(within(10)):
        await taken.wait()
    await asyncio.sleep(0)
    await one.stop()
    assert [call.method_name for call in log.calls] == ["warning", "info"]
