"""Runs the small check of a deployment repeatedly, and writes Prometheus text or JSON lines.

Not here: sleeping and the paths of files (`narthex.cli.probe`). Rules: a round is bounded by the time-outs of its
steps and leaves nothing behind; counters only grow.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from narthex.doctor import dialing
from narthex.doctor.beacons import find_beacon
from narthex.doctor.conversation import converse
from narthex.doctor.exchanging import Line, Secrets, exchange
from narthex.doctor.observations import Attempt, ConversationStep
from narthex.doctor.target import Target


class CanaryRound(msgspec.Struct, frozen=True, kw_only=True):
    """One round: `failed` names the first step that failed; empty when all is well.

    Attributes:
        certificate_ends_at: last day of the server's certificate, seconds since the epoch; 0.0 without TLS.
    """

    at: float
    steps: tuple[ConversationStep, ...]
    certificate_ends_at: float = 0.0

    @property
    def failed(self) -> str:
        """The first step that failed; empty when none did."""
        return next((step.name for step in self.steps if not step.ok), "")

    @property
    def ok(self) -> bool:
        """Whether every step worked."""
        return bool(self.steps) and not self.failed


class Tally(msgspec.Struct):
    """Counts of a canary since its start."""

    ok: int = 0
    failed: int = 0
    last_ok_at: float = 0.0

    def add(self, seen: CanaryRound) -> None:
        """Count a round."""
        if seen.ok:
            self.ok += 1
            self.last_ok_at = seen.at
        else:
            self.failed += 1


async def one_round(
    target: Target,
    *,
    token: str = "",
    headers: tuple[tuple[str, str], ...] = (),
    timeout_s: float = 5.0,
    ca_file: str = "",
) -> CanaryRound:
    """Run one round; stops at the first step that fails. Without a credential it ends at the handshake."""
    line = Line(target, Secrets(token, headers), timeout_s=timeout_s, ca_file=ca_file)
    steps: list[ConversationStep] = []
    at = time.time()
    lookup = await dialing.look_up(target, timeout_s)
    steps.append(ConversationStep(name="dns", ok=bool(lookup.addresses), ms=lookup.ms, detail=lookup.error))
    if not lookup.addresses:
        return CanaryRound(at=at, steps=tuple(steps))
    dials = [await dialing.dial(target, address, timeout_s) for address in lookup.addresses]
    good = [dialled for dialled in dials if dialled.outcome == "ok"]
    steps.append(
        ConversationStep(name="tcp", ok=bool(good), ms=dials[0].ms, detail="" if good else dials[0].outcome)
    )
    ends_at = 0.0
    if good:
        if target.tls:  # also of one that does not verify
            seen = await dialing.shake_hands(target, good[0].address, timeout_s, ca_file)
            if seen.not_after:
                ends_at = datetime.fromisoformat(seen.not_after).replace(tzinfo=UTC).timestamp()
        await _talk(line, good[0].address, steps, credential=bool(token or headers))
    return CanaryRound(at=at, steps=tuple(steps), certificate_ends_at=ends_at)


async def _talk(line: Line, address: str, steps: list[ConversationStep], *, credential: bool) -> None:
    beacon = await find_beacon(line, address)
    path = line.target.beside("health") if beacon is None else f"{beacon.routes}/health"
    health = await exchange(line, address, Attempt(name="health", upgrade=False, path=path))
    detail = "" if health.status == 200 else f"HTTP {health.status}" if health.status else health.end
    steps.append(ConversationStep(name="health", ok=not detail, ms=health.total_ms, detail=detail))
    attempt = Attempt(name="handshake", presents="good" if credential else "none")
    made = await exchange(line, address, attempt, settle_s=0.0)
    # Without a credential a refusal with a reason is the right outcome.
    ok = made.opened or (not credential and made.status in (401, 403))
    detail = "" if ok else f"HTTP {made.status}" if made.status else made.end
    steps.append(ConversationStep(name="handshake", ok=ok, ms=made.first_byte_ms, detail=detail))
    if ok and credential and not (beacon is not None and beacon.application):
        steps.extend(await converse(line, address))


JOURNEY_STEPS: Final[Mapping[str, tuple[str, ...]]] = {
    "connect": ("dns", "tcp", "handshake"),
    "sign_in": ("connect",),
    "send": ("echo", "event"),
    "stream": ("resume",),
}
"""Journeys of the status page, in the order of a round's steps, and the steps that show each of them."""


def journeys(seen: CanaryRound, *, credential: bool) -> dict[str, tuple[bool, float | None]]:
    """What a round says of each journey of the status page: whether it works, and its latency in ms.

    A journey that a round did not reach does not work either: a user would not have reached it. One of which the
    round can say nothing is left out: those after the handshake without a credential, and all of them where the
    prober's own credential was refused.
    """
    steps = {step.name: step for step in seen.steps if step.name != "health"}
    refused = steps.get("handshake")
    if "token" in steps or (refused and not refused.ok and refused.detail in ("HTTP 401", "HTTP 403")):
        return {}
    found: dict[str, tuple[bool, float | None]] = {}
    failed = False
    for journey, names in JOURNEY_STEPS.items():
        if journey != "connect" and not credential:
            break
        reached = [steps[name] for name in names if name in steps]
        failed = failed or any(not step.ok for step in reached)
        if reached or failed:
            found[journey] = (not failed, None if failed else reached[-1].ms)
    return found


def as_json_line(seen: CanaryRound, url: str) -> str:
    """One line for a log pipeline."""
    line: dict[str, Any] = {
        "at": round(seen.at, 3),
        "url": url,
        "ok": seen.ok,
        "failed": seen.failed,
        "ms": {step.name: step.ms for step in seen.steps},
    }
    if seen.failed:
        line["detail"] = next(step.detail for step in seen.steps if not step.ok)
    return json.dumps(line)


def as_prometheus(seen: CanaryRound, tally: Tally, url: str) -> str:
    """The text for node_exporter's textfile collector."""
    label = f'url="{_escaped(url)}"'
    lines = [
        "# HELP narthex_probe_success Whether the last canary round succeeded.",
        "# TYPE narthex_probe_success gauge",
        f"narthex_probe_success{{{label}}} {int(seen.ok)}",
        "# HELP narthex_probe_step_success Whether a step of the last round succeeded; absent when not reached.",
        "# TYPE narthex_probe_step_success gauge",
        *(f'narthex_probe_step_success{{{label},step="{step.name}"}} {int(step.ok)}' for step in seen.steps),
        "# HELP narthex_probe_step_seconds How long a step of the last round took.",
        "# TYPE narthex_probe_step_seconds gauge",
        *(
            f'narthex_probe_step_seconds{{{label},step="{step.name}"}} {step.ms / 1000:.6f}'
            for step in seen.steps
        ),
        "# HELP narthex_probe_rounds_total Rounds since the canary started.",
        "# TYPE narthex_probe_rounds_total counter",
        f'narthex_probe_rounds_total{{{label},result="ok"}} {tally.ok}',
        f'narthex_probe_rounds_total{{{label},result="failed"}} {tally.failed}',
        "# HELP narthex_probe_last_success_timestamp_seconds Time of the last successful round; 0 for never.",
        "# TYPE narthex_probe_last_success_timestamp_seconds gauge",
        f"narthex_probe_last_success_timestamp_seconds{{{label}}} {tally.last_ok_at:.3f}",
        "# HELP narthex_probe_last_round_timestamp_seconds Start of the last round.",
        "# TYPE narthex_probe_last_round_timestamp_seconds gauge",
        f"narthex_probe_last_round_timestamp_seconds{{{label}}} {seen.at:.3f}",
    ]
    if seen.certificate_ends_at:
        lines += [
            "# HELP narthex_probe_certificate_expiry_timestamp_seconds Last day of the server's certificate.",
            "# TYPE narthex_probe_certificate_expiry_timestamp_seconds gauge",
            f"narthex_probe_certificate_expiry_timestamp_seconds{{{label}}} {seen.certificate_ends_at:.0f}",
        ]
    return "\n".join(lines) + "\n"


def write_textfile(file: Path, text: str) -> None:
    """Replace the file in one step: a collector must never read half of it."""
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
