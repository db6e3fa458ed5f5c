"""`narthex bench`: measures the cost of a handshake, a message, a delivery and a socket, beside any other server."""

from __future__ import annotations

import shlex
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from cyclopts import Parameter

from narthex.cli.arguments import given_text, usage, writable
from narthex.cli.operator_client import OperatorClient
from narthex.errors import EXIT_FINDINGS, EXIT_OK, ClientError

if TYPE_CHECKING:
    from rich.console import Console

    from narthex.bench.baseline import FigureChange
    from narthex.bench.load.dialects import Protocol
    from narthex.bench.results import BenchReport
    from narthex.bench.rounds import BenchScenario, Contender

OPEN_FILES = 20_000  # sockets of the largest scenario, with room


def bench(
    *scenarios: str,
    url: str | None = None,
    pid: int | None = None,
    protocol: Literal["raw", "narthex", "centrifugo"] = "narthex",
    beside: Annotated[list[str] | None, Parameter(negative_iterable=())] = None,
    secret_file: Path | None = None,
    api_key_file: Path | None = None,
    rounds: int = 3,
    quick: bool = False,
    floor: bool = False,
    most_runs: bool = False,
    list_scenarios: Annotated[bool, Parameter(name="--list")] = False,
    save: Path | None = None,
    html: Path | None = None,
    read: Path | None = None,
    post: str = "",
    against: Path | None = None,
    tolerance: float = 1.25,
    json: bool = False,
) -> int:
    """Measure the server's CPU per operation, its memory per socket, and how long clients wait.

    Without --url it starts a gateway of its own in a temporary folder, and ends it. The load comes from a process
    of its own, on loopback. Figures are medians of the rounds; servers side by side take turns in each round.

    Examples:
        narthex bench
        narthex bench handshakes fanout --beside 'c=./csrv {port}'
        narthex bench --beside 'other:centrifugo=./centrifugo.sh {port}'
        narthex bench fanout --url ws://127.0.0.1:9100 --pid 4711 --protocol raw
        narthex bench runs --most-runs
        narthex bench --save before.json; narthex bench --against before.json
        narthex bench --read after.json --against before.json --html compared.html

    Args:
        scenarios: Which; all by default. --list names them.
        url: A server that runs already, instead of a gateway of its own.
        pid: Its process, whose CPU and memory are read.
        protocol: How it is spoken to.
        beside: NAME=COMMAND or NAME:PROTOCOL=COMMAND, repeatable; {port} in it becomes a free port. Default raw.
        secret_file: HS256 secret of the tokens of --url and --beside servers.
        api_key_file: Key of their server API.
        rounds: How often each scenario is measured.
        quick: Small numbers, one round: a first impression.
        floor: Measure the generator against a trivial server too: its ceiling.
        most_runs: Find how many streaming runs hold p99 under 250 ms with nothing lost.
        list_scenarios: Name the scenarios and stop.
        save: Write the report as JSON, a baseline.
        html: Write the report as one HTML page with plots.
        read: Show this saved report instead of measuring.
        post: Record the figures at this gateway, whose dashboard plots them over time. Key: NARTHEX_ADMIN_KEY.
        against: Compare with a saved report; exit 1 past the tolerance.
        tolerance: Factor that counts as worse.
        json: Print the report as JSON.
    """
    from narthex.bench import baseline
    from narthex.bench.cpu import raise_open_files
    from narthex.bench.html_report import as_html
    from narthex.bench.rounds import SCENARIOS, run_all

    if list_scenarios:
        for scenario in SCENARIOS:
            print(f"{scenario.name:15} {scenario.about}")
        return EXIT_OK
    from rich.console import Console

    try:
        _check_numbers(rounds, tolerance)
        writable(save, "a baseline")
        writable(html, "an HTML report")
        saved = baseline.load(read) if read is not None else None
        dashboard = OperatorClient(post) if post else None
        wanted = _wanted(scenarios, quick=quick)
        contenders = _contenders(url, pid, protocol, beside or [], secret_file, api_key_file, floor=floor)
        then = baseline.load(against) if against is not None else None
        if then is not None:
            baseline.must_fit(then, quick=saved.quick if saved is not None else quick)
    except ClientError as error:
        return usage(error)
    raise_open_files(OPEN_FILES)
    told = Console(stderr=True, highlight=False)
    if most_runs:
        return _most_runs(contenders[0], told, seconds=5 if quick else 20, as_json=json, html=html)
    report = saved or run_all(
        contenders, wanted, 1 if quick else rounds, lambda line: told.print(f"[dim]{line}[/]"), quick=quick
    )
    if save is not None:
        baseline.save(report, save)
    if dashboard is not None:
        _post(dashboard, report, told)
    changes = baseline.compare(then, report) if then is not None else []
    if html is not None:
        html.write_text(as_html(report, then=then, changes=changes, tolerance=tolerance), encoding="utf-8")
        told.print(f"[dim]wrote {html}[/]")
    if json:
        _print_json(
            {"report": report, "changes": [change._asdict() | {"ratio": change.ratio} for change in changes]}
        )
    else:
        _print(report, then, changes, tolerance)
    failed = any(figure.failures for figure in report.figures) or any(
        change.worse(tolerance) for change in changes
    )
    return EXIT_FINDINGS if failed else EXIT_OK


def _check_numbers(rounds: int, tolerance: float) -> None:
    """Raises ClientError."""
    if rounds < 1:
        raise ClientError("bad_rounds", f"--rounds is {rounds}.", "Give at least 1.")
    if tolerance < 1:
        raise ClientError("bad_tolerance", f"--tolerance is {tolerance:g}.", "Give at least 1, such as 1.25.")


def _post(dashboard: OperatorClient, report: BenchReport, told: Console) -> None:
    from narthex.bench.baseline import figures_of

    figures = figures_of(report)
    body = {"figures": figures, "version": report.version, "machine": report.machine[:200]}
    dashboard.post("/api/v1/operator/baselines", body)
    told.print(f"[dim]posted {len(figures)} figures to {dashboard.base}[/]")


def _print(
    report: BenchReport, then: BenchReport | None, changes: list[FigureChange], tolerance: float
) -> None:
    """The report for people, beside the baseline where there is one."""
    from rich.console import Console

    from narthex.bench.report import show, show_changes

    console = Console(width=None if sys.stdout.isatty() else 150)
    show(report, console)
    if then is not None:
        show_changes(changes, tolerance, console)
        if then.machine != report.machine:
            console.print(f"[yellow]The baseline was measured on another machine: {then.machine}[/]")


def _wanted(names: tuple[str, ...], *, quick: bool) -> list[BenchScenario]:
    from dataclasses import replace

    from narthex.bench.rounds import QUICK, SCENARIOS, named

    try:
        found = list(named(names)) if names else list(SCENARIOS)
    except KeyError as fault:
        raise ClientError(
            "no_scenario", f"No scenario is named {fault}.", "narthex bench --list names them."
        ) from None
    if quick:
        found = [replace(scenario, options=scenario.options | QUICK[scenario.name]) for scenario in found]
    return found


def _contenders(
    url: str | None,
    pid: int | None,
    protocol: Protocol,
    beside: list[str],
    secret_file: Path | None,
    api_key_file: Path | None,
    *,
    floor: bool,
) -> list[Contender]:
    from narthex.bench.rounds import AGENT, Contender
    from narthex.bench.servers import attached, command_server, narthex_server

    secret, api_key = given_text(secret_file, "--secret-file"), given_text(api_key_file, "--api-key-file")
    if url is None:
        found = [Contender("narthex", "narthex", partial(narthex_server, "narthex", arguments=AGENT))]
    else:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or 80
        except ValueError:
            parts, host, port = urlsplit(""), "", 0
        if parts.scheme not in ("ws", "http") or not host:
            raise ClientError(
                "no_tls", "The generator speaks plain WebSocket.", "Give a URL as ws://host:port."
            )
        target = attached(parts.netloc, host, port, pid, protocol=protocol, secret=secret, api_key=api_key)
        found = [Contender(target.name, protocol, lambda: nullcontext(target))]
    for word in beside:
        name, protocol_of, command = _beside(word)
        found.append(
            Contender(
                name,
                protocol_of,
                partial(command_server, name, command, protocol=protocol_of, secret=secret, api_key=api_key),
            )
        )
    if floor:
        command = f"{sys.executable} -m narthex.bench.floor {{port}}"
        found.append(Contender("floor", "raw", partial(command_server, "floor", command)))
    return found


def _beside(word: str) -> tuple[str, Protocol, str]:
    """`NAME[:PROTOCOL]=COMMAND`. Raises ClientError."""
    label, equals, command = word.partition("=")
    name, _, spoken = label.partition(":")
    try:
        shlex.split(command)
    except ValueError as error:
        raise ClientError(
            "bad_beside", f"{command!r} is not a valid command: {error}.", "Close the quotes."
        ) from error
    if (
        not equals
        or not name
        or "{port}" not in command
        or spoken not in ("", "raw", "narthex", "centrifugo")
    ):
        raise ClientError(
            "bad_beside",
            f"{word!r} does not describe a server to compare with.",
            "Give NAME=COMMAND or NAME:raw|narthex|centrifugo=COMMAND, with {port} in the command.",
        )
    return name, spoken or "raw", command  # type: ignore[return-value]  # checked in the line above


def _most_runs(contender: Contender, told: Console, *, seconds: int, as_json: bool, html: Path | None) -> int:
    from narthex.bench.html_report import as_html
    from narthex.bench.rounds import P99_MS, empty_report, most_runs

    held, figures = most_runs(contender, seconds, lambda line: told.print(f"[dim]{line}[/]"))
    if html is not None:
        report = empty_report(1)
        report.figures = figures
        html.write_text(as_html(report, most_runs=(held, P99_MS)), encoding="utf-8")
    if as_json:
        _print_json({"most_runs": held, "p99_ms": P99_MS, "figures": figures})
        return EXIT_OK
    for figure in figures:
        cpu = figure.values.get("server_cpu_percent", 0.0)
        print(
            f"{figure.scenario:12} p50 {figure.p50_ms:6.1f} ms  p99 {figure.p99_ms:6.1f} ms"
            f"  server {cpu:5.1f} % of a core  proven {figure.values.get('proven_sockets', 0):.0f}"
            f"  failed {figure.failures}"
        )
    print(f"Most runs with every event verified and p99 below {P99_MS:.0f} ms: {held}")
    return EXIT_OK if held else EXIT_FINDINGS


def _print_json(value: object) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
