"""`narthex top`: figures and troubles from readings of the fleet."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import pytest
from rich.console import Console

from narthex.cli import top as top_command
from narthex.cli.top import FleetReading, screen
from narthex.errors import EXIT_FINDINGS, EXIT_OK


def member(node: str, at: float, handshakes: float, refused: float, **more: Any) -> dict[str, Any]:
    """One process of an answer."""
    figures = {
        "counters": {
            "handshakes|admitted|ok|user": handshakes,
            "handshakes|refused|token_expired|user": refused,
            "handshakes|admitted|ok|probe": handshakes * 9,
        },
        "gauges": {"connections_active|user": 5.0, "clients_lagging": 1.0},
        "peaks": more.pop("peaks", {}),
        "histograms": {"handshake_seconds": [[int(handshakes), 0, 0], handshakes * 0.001]},
    }
    snapshot = {"node": node, "at": at, "started_at": 0.0, "figures": figures, **more}
    return {"status": more.pop("status", "up"), "age_s": 0.5, "snapshot": snapshot}


def answer(*members: dict[str, Any]) -> dict[str, Any]:
    """Of `/api/v1/operator/fleet`."""
    return {"members": list(members), "buckets": {"handshake_seconds": [0.001, 1.0]}}


def test_rates_are_over_the_last_seconds_and_without_healths_own() -> None:
    """Counters of two processes, of which one has only one reading: its rate is unknown."""
    reading = FleetReading()
    reading.take(answer(member("a", 0, 0, 0)))
    assert reading.summary()["refused_share"] is None
    reading.take(answer(member("a", 10, 30, 10), member("b", 10, 99, 0)))
    summary = reading.summary()
    assert (summary["handshakes_per_s"], summary["refused_per_s"]) == (4.0, 1.0)
    assert summary["refused_share"] == 0.25
    assert (summary["connections"], summary["slow_clients"]) == (10, 2)
    assert summary["handshake_p95_s"] == 0.00095


def test_troubles_and_the_screen() -> None:
    """A dead process, a drain, an open breaker and a failing check; texts of others cannot move the cursor."""
    reading = FleetReading()
    dead = member("b", 0, 0, 0) | {"status": "dead"}
    reading.take(
        answer(
            member("a", 0, 0, 0, peaks={"breaker_state|jwks|user": 2, "health_status|agents": 1}),
            dead,
            member("c", 0, 0, 0, state="draining"),
        )
    )
    reading.refusals = [{"at": 1.0, "code": "auth_required", "detail": "x\x1b[2J", "trace_id": "t"}]
    assert reading.troubles() == [
        "breaker jwks user is open on a",
        "check agents is degraded on a",
        "b is dead",
        "c is draining",
    ]
    assert reading.summary()["connections"] == 10  # a dead process has none
    console = Console(width=160, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(screen(reading))
    text = capture.get()
    assert "2 of 3 processes up" in text
    assert "\x1b[2J" not in text


def test_keys_and_certificates_that_end_soon_are_troubles() -> None:
    """Each once, with the earliest day that a process knows; one that ends later than in two weeks is none."""
    key, day = "key_expiry_timestamp_seconds", 86_400
    now = time.time()
    near = {f"{key}|tls:broker": now + 5 * day, f"{key}|default": now + 40 * day}
    reading = FleetReading()
    reading.take(
        answer(
            member("a", 0, 0, 0, peaks=near), member("b", 0, 0, 0, peaks={f"{key}|tls:broker": now + 9 * day})
        )
    )
    ends = dt.datetime.fromtimestamp(now + 5 * day, dt.UTC).date()
    assert reading.troubles() == [f"key or certificate tls:broker ends on {ends}"]
    assert reading.faults() == []


@pytest.mark.parametrize(("status", "code"), [("up", EXIT_OK), ("dead", EXIT_FINDINGS)])
def test_a_certificate_that_ends_soon_is_shown_and_does_not_fail_once(
    status: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Engines whose certificates live for days always have one; a process that is dead does fail it."""
    peaks = {"key_expiry_timestamp_seconds|tls:broker": time.time() + 86_400}

    class Client:
        def get(self, path: str) -> dict[str, Any]:
            if path.endswith("refusals"):
                return {"refusals": []}
            return answer(
                member("a", time.time(), 0, 0, peaks=peaks), member("b", 0, 0, 0) | {"status": status}
            )

    monkeypatch.setattr(top_command, "with_client", lambda _url, _key, work: work(Client()))
    assert top_command.top("http://127.0.0.1:1", every="0.2s", once=True, json_=True) == code
    assert "key or certificate tls:broker ends on" in capsys.readouterr().out
