"""`narthex top URL`: the dashboard's live figures in a terminal: problems, every process, the newest refusals.

Rules: figures are those of `/api/v1/operator/fleet`; rates are over the last 10 s; an unknown figure is `-`, never 0.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import msgspec
from cyclopts import Parameter

from narthex.cli.arguments import seconds_of, usage
from narthex.cli.connections import duration
from narthex.cli.operator_client import OperatorClient, repeat, with_client
from narthex.doctor.reports import harmless
from narthex.domain.figures import Figures, Histogram, increase, quantile, total
from narthex.errors import EXIT_FINDINGS, EXIT_OK, ClientError

if TYPE_CHECKING:
    from rich.console import RenderableType

WINDOW_S: Final = 10.0
EXPIRING_S: Final = 14 * 86_400.0  # as the alert NarthexKeyExpiring by default
STATES: Final = ("closed", "half open", "open")
STYLES: Final = {"ready": "green", "dead": "bold red", "draining": "yellow", "starting": "yellow"}


def top(
    url: str,
    *,
    every: str = "1s",
    once: Annotated[bool, Parameter(negative=())] = False,
    key: str = "",
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
) -> int:
    """Watch all processes of a gateway: figures, faults, refusals. Ctrl-C ends it.

    With --once it prints two readings' figures and exits 1 when something is wrong. A key or
    certificate that ends soon is shown and does not count: some engines have short-lived ones.

    Examples:
        narthex top http://127.0.0.1:8000
        narthex top https://chat.example.com --once --json

    Args:
        url: Base URL of the gateway.
        every: Time between two readings.
        once: Print once, then stop.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: With --once or not: one JSON line a reading.
    """
    try:
        pause_s = max(0.2, seconds_of("every", every))
    except ClientError as error:
        return usage(error)

    def work(client: OperatorClient) -> int:
        reading = FleetReading()
        if once:
            reading.read(client)
            time.sleep(pause_s)
            reading.read(client)
            _print(reading, as_json=json_)
            return EXIT_FINDINGS if reading.faults() else EXIT_OK
        if json_ or not sys.stdout.isatty():
            return _stream(client, reading, pause_s, as_json=json_)
        from rich.live import Live

        with Live(screen=True, auto_refresh=False) as live:

            def show() -> None:
                reading.read(client)
                live.update(screen(reading), refresh=True)

            return repeat(show, pause_s)

    return with_client(url, key, work)


def _stream(client: OperatorClient, reading: FleetReading, pause_s: float, *, as_json: bool) -> int:
    def show() -> None:
        reading.read(client)
        _print(reading, as_json=as_json)

    return repeat(show, pause_s)


def _print(reading: FleetReading, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(reading.summary()), flush=True)
        return
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 150).print(screen(reading))


class ProcessFigures(NamedTuple):
    """One process: its state, its figures since its start, and their growth over `seconds`."""

    node: str
    kind: str
    version: str
    state: str
    up_s: float
    age_s: float
    now: Figures
    grown: Figures
    seconds: float

    def rate(self, metric: str) -> float | None:
        """A counter's growth a second; None when it is not known."""
        return _sum(self.grown.counters, metric) / self.seconds if self.seconds > 0 else None


class FleetReading:
    """The last readings of all processes."""

    def __init__(self) -> None:
        self.processes: list[ProcessFigures] = []
        self.refusals: list[dict[str, Any]] = []
        self.buckets: dict[str, list[float]] = {}
        self._earlier: dict[str, deque[tuple[float, Figures]]] = {}

    def read(self, client: OperatorClient) -> None:
        """Read again. Raises as `OperatorClient.get`."""
        answer = client.get("/api/v1/operator/fleet")
        self.refusals = client.get("/api/v1/operator/refusals")["refusals"]
        self.take(answer)

    def take(self, answer: dict[str, Any]) -> None:
        """An answer of `/api/v1/operator/fleet`."""
        self.buckets = answer["buckets"]
        self.processes = [self._process(member) for member in answer["members"]]

    def _process(self, member: dict[str, Any]) -> ProcessFigures:
        snapshot = member["snapshot"]
        node, at = snapshot["node"], float(snapshot["at"])
        figures = msgspec.convert(snapshot.get("figures", {}), Figures)
        known = self._earlier.setdefault(node, deque())
        if not known or known[-1][0] < at:
            known.append((at, figures))
        while len(known) > 2 and at - known[1][0] >= WINDOW_S:
            known.popleft()
        first_at, first = known[0]
        state = snapshot.get("state", "ready") if member["status"] == "up" else member["status"]
        return ProcessFigures(
            node,
            snapshot.get("kind", "gateway"),
            snapshot.get("version", ""),
            state,
            at - float(snapshot.get("started_at", at)),
            float(member["age_s"]),
            figures,
            increase(first, figures),
            at - first_at,
        )

    @property
    def living(self) -> list[ProcessFigures]:
        """Those that are up."""
        return [process for process in self.processes if process.state not in ("dead", "left")]

    def summary(self) -> dict[str, Any]:
        """The numbers that count, and what is wrong; for machines, and for the screen's head."""
        living = self.living
        rates = [process for process in living if process.seconds > 0]
        handshakes = refused = 0.0
        for process in rates:
            handshakes += (
                _sum(process.grown.counters, "handshakes", ("admitted", "refused", "inert")) / process.seconds
            )
            refused += _sum(process.grown.counters, "handshakes", ("refused",)) / process.seconds
        grown = total([process.grown for process in rates], 1)
        return {
            "processes": {process.node: process.state for process in self.processes},
            "connections": _whole(sum(_sum(one.now.gauges, "connections_active") for one in living)),
            "handshakes_per_s": round(handshakes, 2),
            "refused_per_s": round(refused, 2),
            "refused_share": round(refused / handshakes, 4) if handshakes else None,
            "handshake_p95_s": self._p95(grown, "handshake_seconds"),
            "runs": _whole(sum(_sum(one.now.gauges, "runs_active") for one in living)),
            "first_event_p95_s": self._p95(grown, "run_start_seconds"),
            "slow_clients": _whole(sum(_sum(one.now.gauges, "clients_lagging") for one in living)),
            "events_lost": _whole(sum(_sum(one.now.counters, "events_lost") for one in living)),
            "troubles": self.troubles(),
        }

    def _p95(self, grown: Figures, metric: str) -> float | None:
        found = grown.histograms.get(metric, Histogram([]))
        value = quantile(self.buckets.get(metric, []), found.counts, 0.95)
        return None if value is None else round(value, 6)

    def troubles(self) -> list[str]:
        """What is wrong now and what ends soon, in words."""
        return [*self.faults(), *self.endings()]

    def faults(self) -> list[str]:
        """What is wrong now, in words."""
        found = []
        for process in self.processes:
            if process.state in ("dead", "draining", "starting"):
                found.append(f"{process.node} is {process.state}")
            if process.state == "dead":
                continue
            for key, value in process.now.peaks.items():
                name, *labels = key.split("|")
                if name == "breaker_state" and value > 0:
                    found.append(f"breaker {' '.join(labels)} is {STATES[int(value)]} on {process.node}")
                if name == "health_status" and value > 0:
                    word = "unhealthy" if value > 1 else "degraded"
                    found.append(f"check {labels[0]} is {word} on {process.node}")
        return found

    def endings(self) -> list[str]:
        """Which keys and certificates end soon, in words."""
        found = []
        for name, ends_at in sorted(self._expiries().items()):
            if ends_at - time.time() < EXPIRING_S:
                day = dt.datetime.fromtimestamp(ends_at, dt.UTC).date()
                found.append(f"key or certificate {name} ends on {day}")
        return found

    def _expiries(self) -> dict[str, float]:
        """When the keys and certificates in use end, the earliest of each."""
        found: dict[str, float] = {}
        for process in self.living:
            for key, ends_at in process.now.peaks.items():
                name, _, label = key.partition("|")
                if name == "key_expiry_timestamp_seconds":
                    found[label] = min(ends_at, found.get(label, ends_at))
        return found


def screen(reading: FleetReading) -> RenderableType:
    """What the terminal shows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    summary = reading.summary()
    troubles = summary["troubles"]
    head = Text()
    head.append(f"{len(reading.living)} of {len(reading.processes)} processes up   ", style="bold")
    head.append(
        "\n".join(f"! {harmless(one)}" for one in troubles) or "nothing is wrong",
        style="bold red" if troubles else "green",
    )
    numbers = Table.grid(padding=(0, 3))
    numbers.add_row(*(Text(name, style="dim") for name in _NUMBERS))
    numbers.add_row(*(Text(show(summary[member]), style="bold") for member, show in _NUMBERS.values()))
    return Group(head, Text(), numbers, Text(), _processes(reading), Text(), _refusals(reading))


def _processes(reading: FleetReading) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        *("node", "kind", "state", "version", "up", "conns", "hs/s", "runs", "cpu", "lag p99", "heard"),
        box=None,
        pad_edge=False,
        header_style="dim",
    )
    for one in reading.processes:
        lag = one.grown.histograms.get("loop_lag_seconds", Histogram([]))
        cpu = one.rate("cpu_seconds")
        handshakes = one.rate("handshakes")
        table.add_row(
            harmless(one.node),
            one.kind,
            Text(one.state, style=STYLES.get(one.state, "dim")),
            one.version,
            duration(one.up_s),
            f"{_sum(one.now.gauges, 'connections_active'):.0f}",
            "-" if handshakes is None else f"{handshakes:.1f}",
            f"{_sum(one.now.gauges, 'runs_active'):.0f}",
            "-" if cpu is None else f"{cpu * 100:.0f} %",
            _seconds(quantile(reading.buckets.get("loop_lag_seconds", []), lag.counts, 0.99)),
            f"{one.age_s:.0f} s ago",
        )
    return table


def _refusals(reading: FleetReading) -> RenderableType:
    from rich.table import Table

    table = Table(
        "refused at", "reason", "credential", "from", "trace id", box=None, pad_edge=False, header_style="dim"
    )
    for one in reading.refusals[:10]:
        table.add_row(
            time.strftime("%H:%M:%S", time.localtime(one["at"])),
            harmless(f"{one['code']}: {one['detail']}"),
            ", ".join(one.get("carriers", [])) or "none",
            one.get("address", "unknown"),
            harmless(one.get("trace_id", "")),
        )
    return table


def _sum(values: dict[str, float], metric: str, first: tuple[str, ...] = ()) -> float:
    """A metric's series, added up; of `handshakes` without health's own; `first`: allowed values of the first label."""
    found = 0.0
    for key, value in values.items():
        name, *labels = key.split("|")
        if name == metric and (not first or labels[0] in first) and labels[2:3] != ["probe"]:
            found += value
    return found


def _whole(value: float) -> int:
    return round(value)


def _seconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.1f} %"


_NUMBERS: Final[dict[str, tuple[str, Any]]] = {
    "connections": ("connections", str),
    "handshakes/s": ("handshakes_per_s", str),
    "refused": ("refused_share", _share),
    "handshake p95": ("handshake_p95_s", _seconds),
    "runs": ("runs", str),
    "first event p95": ("first_event_p95_s", _seconds),
    "slow clients": ("slow_clients", str),
    "events lost": ("events_lost", str),
}
