"""`narthex show`: what the dashboard shows, once, in a terminal or for machines: figures over time, refusals, audit
records, end-to-end runs, performance measurements, processes.

Not here: what changes every second (`top`), and acting (`connections`, `trace`, `drain`, `incident`). Rules: `--json`
prints the API's objects, of refusals and figures those that the options ask for; an unknown figure is `-`, never 0;
texts of others cannot move the cursor.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from cyclopts import App, Parameter

from narthex.cli.connections import duration
from narthex.cli.operator_client import OperatorClient, repeat, with_client
from narthex.doctor.reports import harmless
from narthex.domain.figures import quantile
from narthex.errors import EXIT_OK

if TYPE_CHECKING:
    from rich.table import Table

app = App(name="show", help="Print what the dashboard shows: figures, refusals, audits, tests, performance.")

Json = Annotated[bool, Parameter(name="--json", negative=())]
Range = Literal["15m", "1h", "6h", "24h", "7d", "30d", "90d"]

POLL_S: Final = 1.0
SPARK: Final = "▁▂▃▄▅▆▇█"
SPARK_WIDTH: Final = 30


@app.command
def figures(
    url: str,
    *,
    range_: Annotated[Range, Parameter(name="--range")] = "1h",
    metric: str = "",
    key: str = "",
    json_: Json = False,
) -> int:
    """Show the figures of all processes over time.

    Examples:
        narthex show figures https://chat.example.com --range 24h
        narthex show figures https://chat.example.com --metric handshakes

    Args:
        url: Base URL of the gateway.
        range_: How far back.
        metric: Only this one, such as `handshakes` or `runs_active`.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: For machines.
    """

    def work(client: OperatorClient) -> int:
        history = client.get("/api/v1/operator/history", range=range_)
        for kind in ("counters", "gauges", "peaks", "histograms"):
            found = history[kind]
            history[kind] = {
                name: found[name] for name in sorted(found) if metric in ("", name.partition("|")[0])
            }
        if json_:
            return _json(history)
        buckets = client.get("/api/v1/operator/fleet")["buckets"]
        return _table(
            ("metric", "labels", "over time", "newest", "mean", "max", "sum"), _figure_rows(history, buckets)
        )

    return with_client(url, key, work)


def _figure_rows(history: dict[str, Any], buckets: dict[str, list[float]]) -> Iterable[Sequence[str]]:
    """A row for each series; counters are growth a second, histograms their 95th percentile."""
    step_s = history["step_s"]
    for kind in ("counters", "gauges", "peaks"):
        for name, column in history[kind].items():
            values = (
                [None if one is None else one / step_s for one in column] if kind == "counters" else column
            )
            whole = f"{sum(one or 0 for one in column):,.0f}" if kind == "counters" else "-"
            yield _row(name, values, whole, "/s" if kind == "counters" else "")
    for name, column in history["histograms"].items():
        bounds = buckets.get(name.partition("|")[0], [])
        values = [None if counts is None else quantile(bounds, counts, 0.95) for counts in column]
        yield _row(name, values, f"{sum(map(sum, filter(None, column))):,}", " s, p95")


def _row(name: str, values: Sequence[float | None], whole: str, unit: str) -> Sequence[str]:
    metric, _, labels = name.partition("|")
    known = [value for value in values if value is not None]
    shown = (known[-1], sum(known) / len(known), max(known)) if known else ()
    cells = [f"{value:,.4g}{unit}" for value in shown] or ["-"] * 3
    return (metric, labels.replace("|", " "), _spark(values), *cells, whole)


def _spark(values: Sequence[float | None]) -> str:
    """The course of a series in `SPARK_WIDTH` characters at most; a space where nothing is known."""
    size = -(-len(values) // SPARK_WIDTH) or 1
    parts = [[one for one in values[at : at + size] if one is not None] for at in range(0, len(values), size)]
    most = max((max(part) for part in parts if part), default=0.0) or 1.0
    return "".join(SPARK[min(7, int(max(part) / most * 7.99))] if part else " " for part in parts)


@app.command
def refusals(
    url: str,
    *,
    code: str = "",
    user: str = "",
    follow: Annotated[bool, Parameter(negative=())] = False,
    key: str = "",
    json_: Json = False,
) -> int:
    """Show the newest refused handshakes of all processes, oldest first.

    Examples:
        narthex show refusals https://chat.example.com --follow

    Args:
        url: Base URL of the gateway.
        code: Only with this reason, such as `token_expired`.
        user: Only of this user, whom the refused credential names.
        follow: Go on with new ones until Ctrl-C; with --json one line each.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: For machines.
    """

    def read(client: OperatorClient) -> list[dict[str, Any]]:
        found = reversed(client.get("/api/v1/operator/refusals")["refusals"])
        return [one for one in found if code in ("", one["code"]) and user in ("", one.get("user", ""))]

    def work(client: OperatorClient) -> int:
        if not follow:
            found = read(client)
            return _json({"refusals": found}) if json_ else _table(_REFUSAL, map(_refusal_row, found))
        printed: set[str] = set()

        def print_new() -> None:
            nonlocal printed
            found = {json.dumps(one): one for one in read(client)}
            for text, one in found.items():
                if text not in printed:
                    print(text if json_ else harmless("  ".join(_refusal_row(one))), flush=True)
            printed = set(found)

        return repeat(print_new, POLL_S)

    return with_client(url, key, work)


_REFUSAL: Final = ("at", "reason", "remedy", "user", "credential", "from", "node", "trace id")


def _refusal_row(one: dict[str, Any]) -> Sequence[str]:
    return (
        _moment(one["at"]),
        f"{one['code']}: {one['detail']}",
        one.get("remedy", ""),
        one.get("user") or "not proven",
        ", ".join(one.get("carriers", [])) or "none",
        one.get("address", "unknown"),
        one.get("node", ""),
        one.get("trace_id", ""),
    )


@app.command
def audits(url: str, *, kind: str = "", limit: int = 50, key: str = "", json_: Json = False) -> int:
    """Show the newest audit records: who did what to whom.

    Examples:
        narthex show audits https://chat.example.com --kind revocation

    Args:
        url: Base URL of the gateway.
        kind: Only of this kind, such as `disconnect`, `revocation`, `drain`, `trace_started`.
        limit: At most so many.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: For machines.
    """

    def row(one: dict[str, Any]) -> Sequence[str]:
        return (_moment(one["at"]), one["kind"], one["tenant"], one["subject"], one["detail"])

    head = ("at", "kind", "tenant", "subject", "detail")
    work = _list("/api/v1/operator/audits", "audits", head, row, json_=json_, kind=kind, limit=limit)
    return with_client(url, key, work)


@app.command
def tests(url: str, *, key: str = "", json_: Json = False) -> int:
    """Show the newest end-to-end runs and gates, and what failed in them.

    Examples:
        narthex show tests https://staging.example.com

    Args:
        url: Base URL of the gateway.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: For machines.
    """

    def row(one: dict[str, Any]) -> Sequence[str]:
        report = _report(one["report"])
        failed = ", ".join(
            str(item.get("name", "")) for item in report.get("failed", []) if isinstance(item, dict)
        )
        counts = (str(one[member]) for member in ("passed", "failed", "skipped"))
        kind = str(report.get("kind", "tests"))
        return (
            _moment(one["at"]),
            one["test_run"],
            kind,
            one["environment"],
            *counts,
            duration(one["duration_s"]),
            failed,
        )

    head = ("at", "run", "kind", "environment", "passed", "failed", "skipped", "took", "what failed")
    return with_client(url, key, _list("/api/v1/e2e/results", "results", head, row, json_=json_))


def _report(text: str) -> dict[str, Any]:
    """A runner's report; another program's may have another form."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("failed", []), list) else {}


@app.command
def performance(url: str, *, key: str = "", json_: Json = False) -> int:
    """Show the performance measurements that `narthex bench --post` has recorded.

    Examples:
        narthex show performance https://staging.example.com

    Args:
        url: Base URL of the gateway.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: For machines.
    """

    def row(one: dict[str, Any]) -> Sequence[str]:
        measured = "; ".join(f"{name} {value:.4g}" for name, value in one["figures"].items())
        return (_moment(one["at"]), one["kind"], one["version"], one["machine"], measured)

    head = ("at", "kind", "version", "machine", "figures")
    return with_client(url, key, _list("/api/v1/operator/baselines", "baselines", head, row, json_=json_))


@app.command
def processes(url: str, *, key: str = "", json_: Json = False) -> int:
    """Show every process: state, version, engines, and when its keys and certificates end.

    Examples:
        narthex show processes https://chat.example.com --json

    Args:
        url: Base URL of the gateway.
        key: Admin key or operator's token; better in NARTHEX_ADMIN_KEY.
        json_: For machines, with all figures.
    """

    def row(one: dict[str, Any]) -> Sequence[str]:
        found = one["snapshot"]
        state = found.get("state", "ready") if one["status"] == "up" else one["status"]
        facts = ", ".join(f"{name}: {fact}" for name, fact in found.get("facts", {}).items())
        peaks = found.get("figures", {}).get("peaks", {}).items()
        ends = (
            f"{name.partition('|')[2]} {_moment(at)}" for name, at in peaks if name.startswith("key_expiry")
        )
        up = duration(found["at"] - found.get("started_at", found["at"]))
        return (
            found["node"],
            found.get("kind", "gateway"),
            state,
            found.get("version", ""),
            up,
            facts,
            ", ".join(ends),
        )

    head = ("node", "kind", "state", "version", "up", "engines", "keys and certificates end")
    return with_client(url, key, _list("/api/v1/operator/fleet", "members", head, row, json_=json_))


# -- printing ----------------------------------------------------------------------------------------------------


def _list(
    path: str,
    member: str,
    head: Sequence[str],
    row: Callable[[dict[str, Any]], Sequence[str]],
    *,
    json_: bool,
    **query: object,
) -> Callable[[OperatorClient], int]:
    """The work of a command that prints an answer's list, or the answer itself."""

    def work(client: OperatorClient) -> int:
        answer = client.get(path, **query)
        return _json(answer) if json_ else _table(head, map(row, answer[member]))

    return work


def _json(answer: object) -> int:
    print(json.dumps(answer, indent=2))
    return EXIT_OK


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> int:
    from rich.console import Console
    from rich.table import Table

    table: Table = Table(*head, box=None, pad_edge=False, header_style="dim")
    for cells in rows:
        table.add_row(*(harmless(cell) for cell in cells))
    Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 1_000).print(table)
    print(f"{table.row_count} rows")
    return EXIT_OK


def _moment(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
