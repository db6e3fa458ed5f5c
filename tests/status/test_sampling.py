"""What a gateway reports of itself: by its checks and by its counters."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

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

    async def report(self) -> dict[str, Any]:
        """See `Health`."""
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
    assert set(shown(await sampler(checks).round(), "health")) == {"connect", "sign_in"}


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

    one = Sampler(
        Checks(), lambda: None, PrometheusMeter(), "n", record, get_logger("test"), interval_s=0.001
    )
    with capture_logs() as logs:
        await one.start()
        async with asyncio.timeout(within(10)):
            await taken.wait()
        await asyncio.sleep(0)
        await one.stop()
    assert [line["log_level"] for line in logs] == ["warning", "info"]
