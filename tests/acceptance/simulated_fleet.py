"""Twenty simulated instances and 90 days of their past, beside one real gateway in this process.

Not here: the page (`dashboard_page`). Rules: every figure is drawn from one seed, so that screenshots repeat.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import msgspec

from narthex.app.fleet import RecentRefusal, Snapshot
from narthex.app.fleet.history import FINE_S, HOUR_S, KEPT_S, MINUTE_S
from narthex.domain.figures import Figures, Histogram
from narthex.ports.broker import Control
from narthex.ports.history import HistoryRow
from narthex.ports.store import GATE_RESULT, BaselineRecord, TestRunResult
from narthex.testing import Running, gateway

NODES: Final = tuple(f"cloud-run-{number:012x}" for number in range(0xA1B2C3, 0xA1B2C3 + 20))
REASONS: Final = {"token_expired": 5.0, "auth_required": 3.0, "origin_not_allowed": 0.6, "rate_limited": 0.4}
PLANS: Final = {"free": 0.55, "early": 0.2, "mid": 0.15, "enterprise": 0.1}
LATENCIES: Final = (30, 220, 400, 180, 80, 40, 20, 9, 4, 2, 1, 0, 0, 0, 0)
FIRST_EVENTS: Final = (0, 0, 0, 0, 4, 22, 60, 90, 70, 30, 12, 5, 2, 1, 0)


@contextlib.asynccontextmanager
async def simulated_fleet(directory: Path) -> AsyncIterator[Running]:
    """A gateway with twenty simulated instances, their past, and twelve nights of tests and benchmarks."""
    async with gateway(directory) as running:
        parts = running.gateway.parts
        assert parts is not None
        rows = await asyncio.to_thread(list, past(time.time()))
        for at in range(0, len(rows), 2_000):
            await parts.store.history.put_history(rows[at : at + 2_000])
        for number in range(12):
            await parts.store.records.add_result(
                TestRunResult(
                    test_run=f"nightly-{number}",
                    at=time.time() - (12 - number) * 86_400,
                    environment="staging",
                    passed=1_203 - (2 if number == 7 else 0),
                    failed=2 if number == 7 else 0,
                    skipped=4,
                    duration_s=412.5,
                    report=json.dumps(
                        {
                            "target": "deployed system",
                            "success_rate": 1.0 if number != 7 else 0.998,
                            "categories": {"chat": {"passed": 840}, "security": {"passed": 363}},
                            "failed": [{"name": "chat.recovery.cold", "detail": "took 12 s"}]
                            if number == 7
                            else [],
                        }
                    ),
                )
            )
            values = {"handshakes: CPU µs": 151 - number, "echo: CPU µs": 7.4 + number % 3 / 10}
            await parts.store.records.add_baseline(
                BaselineRecord(
                    at=time.time() - (12 - number) * 86_400,
                    kind="bench",
                    version="0.2.0",
                    machine="2 cores",
                    figures=msgspec.json.encode(values).decode(),
                )
            )
        nothing: list[dict[str, str]] = []
        for number, failed in enumerate((nothing, [{"name": "keys", "detail": "A wrong key was admitted."}])):
            await parts.store.records.add_result(gate_result(number, failed))
        simulated = asyncio.create_task(live(running))
        try:
            yield running
        finally:
            simulated.cancel()


def load(at: float) -> float:
    """Between 0.2 at night and 1 at noon, less on Sundays."""
    day = 0.6 - 0.4 * math.cos(2 * math.pi * (at % 86_400) / 86_400)
    return day * (0.7 if int(at // 86_400) % 7 == 3 else 1.0)


def figures(at: float, seconds: float, share: float, rng: random.Random) -> Figures:
    """Figures of an interval, of a `share` of the fleet."""

    def some(value: float) -> int:
        """A whole number whose mean is `value`."""
        return int(value) + (rng.random() < value % 1)

    busy = load(at) * share * rng.uniform(0.95, 1.05)
    handshakes = 40.0 * busy * seconds
    counters: dict[str, float] = {"handshakes|admitted|ok|user": some(handshakes)}
    counters |= {
        f"handshakes|refused|{code}|user": some(handshakes * weight / 100) for code, weight in REASONS.items()
    }
    counters |= {
        "handshakes|admitted|ok|e2e": some(handshakes * 0.004),
        "credential_extractions|authorization": some(handshakes * 0.7),
        "credential_extractions|cookie": some(handshakes * 0.25),
        "runs|finished|none": some(6 * busy * seconds),
        "runs|failed|agent_error": some(0.05 * busy * seconds),
        "recoveries|recovered": some(9 * busy * seconds),
        "disconnects|3001": some(busy * seconds),
        "disconnects|1000": some(20 * busy * seconds),
        "cpu_seconds": round(0.22 * busy * seconds * 20, 2),
    }
    connections = 18_000 * busy
    gauges = {
        "connections_active|user": some(connections * 0.93),
        "connections_active|guest": some(connections * 0.06),
        "connections_active|e2e": some(connections * 0.01),
        "runs_active": some(140 * busy),
        "clients_lagging": some(12 * busy),
        "version|0.2.0": 20 * share,
        "state|ready": 20 * share,
        "nodes": 20 * share,
    }
    gauges |= {f"connections_by_plan|{plan}": some(connections * weight) for plan, weight in PLANS.items()}
    trouble = 2.0 if 0.30 < at % 86_400 / 86_400 < 0.31 else 0.0
    scale = handshakes / sum(LATENCIES)
    first = 6 * busy * seconds / sum(FIRST_EVENTS)
    return Figures(
        counters,
        gauges,
        {"breaker_state|jwks:default|user": trouble, "breaker_state|jwks:default|e2e": 0.0},
        {
            "handshake_seconds": Histogram(
                [some(weight * scale) for weight in LATENCIES], handshakes * 0.003
            ),
            "run_start_seconds": Histogram([some(weight * first) for weight in FIRST_EVENTS], 1.0),
            "loop_lag_seconds": Histogram([8, 40, 25, 10, 4, 2, 1, 0, 0, 0, 0, 0, 0], 1.0),
        },
    )


def past(now: float) -> Iterator[HistoryRow]:
    """Rows of every resolution that is kept, up to now."""
    rng = random.Random(15)
    for resolution in (HOUR_S, MINUTE_S):
        for at in range(
            int(now - KEPT_S[resolution]) // resolution * resolution, int(now) - resolution, resolution
        ):
            found = figures(at, resolution, 1.0, rng)
            found.gauges |= {f"node|{node}": round(900 * load(at) * rng.uniform(0.9, 1.1)) for node in NODES}
            yield row(resolution, at, "", found)
    for at in range(int(now - 3_600) // FINE_S * FINE_S, int(now) // FINE_S * FINE_S, FINE_S):
        for node in NODES:
            found = figures(at, FINE_S, 1 / 20, rng)
            found.gauges[f"node|{node}"] = sum(
                value for key, value in found.gauges.items() if key.startswith("connections_active|")
            )
            yield row(FINE_S, at, node, found)


def row(resolution: int, at: int, node: str, found: Figures) -> HistoryRow:
    """A row of the store."""
    return HistoryRow(resolution=resolution, at=at, node=node, data=msgspec.json.encode(found).decode())


async def live(running: Running) -> None:
    """Snapshots of all simulated instances every second, until it is cancelled."""
    parts = running.gateway.parts
    assert parts is not None
    rng = random.Random(16)
    started = time.time() - 90_000
    totals = {node: Figures({}, {}, {}, {}) for node in NODES}
    while True:
        now = time.time()
        for number, node in enumerate(NODES):
            found = figures(now, 1.0, 1 / 20, rng)
            total = totals[node]
            for key, value in found.counters.items():
                total.counters[key] = total.counters.get(key, 0.0) + value
            for key, histogram in found.histograms.items():
                kept = total.histograms.setdefault(key, Histogram([0] * len(histogram.counts)))
                kept.counts = [a + b for a, b in zip(kept.counts, histogram.counts, strict=True)]
            total.gauges, total.peaks = found.gauges, {"breaker_state|jwks:default|user": 0.0}
            refusals = []
            if rng.random() < 0.1:
                code = rng.choices(list(REASONS), list(REASONS.values()))[0]
                refusals.append(refusal(code, now, node, rng))
            snapshot = Snapshot(
                node=node,
                version="0.2.0",
                environment="staging",
                state="draining" if number == 7 else "ready",
                started_at=started + number * 40,
                at=now,
                figures=total,
                refusals=refusals,
            )
            parts.fleet.control(Control("snapshot", {"snapshot": msgspec.to_builtins(snapshot)}))
        await asyncio.sleep(1.0)


def gate_result(number: int, failed: list[dict[str, str]]) -> TestRunResult:
    """A gate as `narthex gate --post` reports it: open, or closed by what failed."""
    report = {"kind": GATE_RESULT, "target": "https://candidate---chat.example.com 0.2.0", "failed": failed}
    return TestRunResult(
        test_run=f"gate-{number:012x}",
        at=time.time() - 3_600 * (number + 1),
        environment="staging",
        passed=21 - len(failed),
        failed=len(failed),
        skipped=0,
        duration_s=7.5,
        report=json.dumps(report | {"success_rate": (21 - len(failed)) / 21}),
    )


def refusal(code: str, at: float, node: str, rng: random.Random) -> RecentRefusal:
    """One refused handshake."""
    details = {
        "token_expired": ("The token expired 42 s ago.", "Fetch a fresh token and connect again."),
        "auth_required": ("Authentication required.", "Send a credential with the upgrade."),
        "origin_not_allowed": ("This origin may not connect.", "Add it to NARTHEX_ALLOWED_ORIGINS."),
        "rate_limited": ("Too many handshakes from this address.", "Wait, then try again."),
    }
    detail, remedy = details[code]
    return RecentRefusal(
        at=round(at, 3),
        code=code,
        detail=detail,
        remedy=remedy,
        carriers=[] if code == "auth_required" else ["authorization"],
        user="ada@example.com" if code == "token_expired" else "",
        tenant="default" if code == "token_expired" else "",
        address=rng.choice(["public-ipv4", "public-ipv6"]),
        traffic="user",
        trace_id=f"{rng.getrandbits(128):032x}",
        node=node,
    )
