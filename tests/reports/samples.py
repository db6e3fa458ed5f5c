"""Reports with plausible figures, the same ones each time."""

from __future__ import annotations

import random

from narthex.bench.results import BenchReport, Figure, combine, latencies
from narthex.doctor.canary import CanaryRound
from narthex.doctor.observations import ConversationStep

STARTED_AT = 1_798_000_000.0
STEPS = {
    "dns": 0.3,
    "tcp": 0.8,
    "health": 4.0,
    "handshake": 9.0,
    "connect": 2.0,
    "echo": 1.5,
    "event": 12.0,
    "resume": 6.0,
}


def bench_report(*, slower: float = 1.0, rounds: int = 3, seed: int = 1) -> BenchReport:
    """Handshakes and a fan-out of two targets; `slower` multiplies the costs of the first one."""
    dice = random.Random(seed)
    report = BenchReport(
        version="0.2.0",
        machine="Linux 6.18 <test>",
        python="3.11.7",
        cores=2,
        at="2026-11-30T12:00:00Z",
        rounds=rounds,
    )
    for scenario, cost in (("handshakes", 140.0), ("fanout-1000x8", 0.46)):
        for target, factor in (("narthex", slower), ("other <b>", 0.8)):
            figures = []
            for _ in range(rounds):
                waits = [(at / 100, dice.lognormvariate(1.0, 0.5) * factor / 1e3) for at in range(1, 600)]
                waits += [(3.0, 0.25 * factor)]
                figures.append(
                    Figure(
                        scenario=scenario,
                        target=target,
                        operations=600,
                        cpu_us=cost * factor * dice.uniform(0.95, 1.05),
                        system_share=0.3,
                        per_s=900.0,
                        generator_us=11.0,
                        values={"uss_kb_per_socket": 5.1 * factor},
                        **latencies(waits),
                    )
                )
            report.figures.append(combine(figures))
    report.ratios["handshakes: narthex / other <b>"] = 1.25
    return report


def rounds(count: int, *, failing: range = range(0), seed: int = 2) -> list[CanaryRound]:
    """Rounds of a prober every 30 s; those in `failing` end at the handshake."""
    dice = random.Random(seed)
    found = []
    for number in range(count):
        steps = []
        for name, ms in STEPS.items():
            ok = number not in failing or name != "handshake"
            steps.append(
                ConversationStep(
                    name=name,
                    ok=ok,
                    ms=round(ms * dice.lognormvariate(0, 0.3), 2),
                    detail="" if ok else "HTTP 503 <b>",
                )
            )
            if not ok:
                break
        found.append(CanaryRound(at=STARTED_AT + 30 * number, steps=tuple(steps)))
    return found
