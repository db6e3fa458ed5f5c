"""`narthex gate URL`: decides in a pipeline whether a new deployment may take traffic.

Not here: the checks (`narthex.doctor.gate`). Rules: under 60 s; exit 0 only when every check passed, 1 when one did
not, 2 on wrong usage, 69 when nothing answers.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import Parameter

from narthex.cli.arguments import given_headers, given_token, seconds_of, usage, writable
from narthex.cli.operator_client import OperatorClient
from narthex.doctor import baseline
from narthex.doctor.endpoint_gate import MAX_HOLD_S, examine_endpoint
from narthex.doctor.gate import GateOptions, GateReport, Progress, examine_gate
from narthex.doctor.reports import harmless
from narthex.doctor.target import Target, parse_target
from narthex.errors import EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE, ClientError, NarthexError
from narthex.ports.store import GATE_RESULT

Examine = Callable[[Target, GateOptions, Progress], Coroutine[Any, Any, GateReport]]
Flag = Parameter(negative=(), show_default=False)


def gate(
    url: str,
    *,
    token: Annotated[str, Parameter(env_var="NARTHEX_TOKEN", allow_leading_hyphen=True)] = "",
    header: tuple[str, ...] = (),
    expect_bypass: Literal["true", "false"] = "false",
    profile: Literal["chat", "endpoint"] = "chat",
    text: str = "hello",
    send: str = "",
    expect: str = "",
    hold: str = "10s",
    prefix: str = "",
    save: Path | None = None,
    against: Path | None = None,
    slower: float = 1.5,
    allow_degraded: Annotated[bool, Flag] = False,
    timeout: str = "5s",
    ca_file: str = "",
    post: str = "",
    as_json: Annotated[bool, Parameter(name="--json", negative=(), show_default=False)] = False,
) -> int:
    """Check a deployed narthex, or an endpoint behind its guard, before it takes traffic. Under 60 s.

    Exits 0 when every check passed, 1 when one did not, 69 when nothing answers.

    Examples:
        narthex gate https://chat.example.com --token @token.txt
        narthex gate wss://app.example.com/ws --profile endpoint --token @token.txt

    Args:
        url: wss://host, or wss://host/ws.
        token: of a user that may chat; `-` reads it from stdin, `@FILE` from a file.
        header: one more header, `Name: value`, such as X-E2E-Bypass-Key; repeat it for more.
        expect_bypass: required value of auth_bypass_active.
        profile: chat for a narthex; endpoint for an application's own WebSocket behind a guard.
        text: chat: message to the default agent, sent twice.
        send: endpoint: text message to send once.
        expect: endpoint: text that a message of the endpoint must contain.
        hold: endpoint: how long sockets must stay open, at most 30s; 0 skips the check.
        prefix: endpoint: path of the guard's own routes; unset, they are looked for around the endpoint's path.
        save: write the latencies as a baseline.
        against: compare the latencies with this baseline.
        slower: how many times slower than the baseline is too slow.
        allow_degraded: let health `degraded` pass.
        timeout: of each step.
        ca_file: a root certificate to trust besides the system's.
        post: record the result at this gateway, for its dashboard. Key: NARTHEX_ADMIN_KEY.
        as_json: for machines.
    """
    try:
        writable(save, "a baseline")
        target = parse_target(url)
        options = GateOptions(
            token=given_token(token),
            headers=given_headers(header),
            expect_bypass=expect_bypass == "true",
            text=text,
            allow_degraded=allow_degraded,
            timeout_s=max(0.1, seconds_of("timeout", timeout)),
            ca_file=ca_file,
            against=baseline.load(against) if against else None,
            factor=slower,
            hold_s=seconds_of("hold", hold),
            send=send,
            expect=expect,
            prefix=prefix,
        )
        if options.hold_s > MAX_HOLD_S:
            raise ClientError(
                "bad_time", f"--hold: {hold} is longer than 30s.", "narthex doctor --hold holds longer."
            )
        if profile == "chat" and (send or expect or prefix):
            raise ClientError(
                "bad_profile",
                "--send, --expect and --prefix need --profile endpoint.",
                "Add it, or leave them out.",
            )
        if not options.token and not options.headers:
            raise ClientError(
                "no_credential", "The gate needs a credential.", "Give --token, NARTHEX_TOKEN, or --header."
            )
        dashboard = OperatorClient(post) if post else None
        examine = examine_endpoint if profile == "endpoint" else examine_gate
        report = _examined(examine, target, options, quiet=as_json)
        if save is not None and report.ok:
            baseline.save(save, report.url, report.version, report.figures)
    except ClientError as error:
        return usage(error)
    print(_as_json(report) if as_json else _as_text(report))
    if dashboard is not None:
        _post(dashboard, report)
    if not report.reachable:
        return EXIT_UNREACHABLE
    return EXIT_OK if report.ok else EXIT_FINDINGS


def _examined(examine: Examine, target: Target, options: GateOptions, *, quiet: bool) -> GateReport:
    def progress(step: str) -> None:
        if not quiet and sys.stderr.isatty():
            print(f"\r\x1b[K{step} …", end="", file=sys.stderr, flush=True)

    report = asyncio.run(examine(target, options, progress))
    if not quiet and sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return report


def _post(dashboard: OperatorClient, report: GateReport) -> None:
    """Record the result. One that cannot be recorded is said, and changes no verdict: a pipeline waits for that."""
    failed = [{"name": check.name, "detail": check.detail[:500]} for check in report.checks if not check.ok]
    passed = len(report.checks) - len(failed)
    body = {
        "test_run": f"gate-{secrets.token_hex(6)}",
        "passed": passed,
        "failed": len(failed),
        "duration_s": report.seconds,
        "environment": report.environment,
        "report": {
            "kind": GATE_RESULT,
            "target": f"{report.url} {report.version}".strip(),
            "success_rate": passed / max(1, len(report.checks)),
            "failed": failed,
        },
    }
    try:
        dashboard.post("/api/v1/e2e/results", body)
    except NarthexError as error:
        print(f"error: the result was not recorded. {error.message}\nremedy: {error.remedy}", file=sys.stderr)


def _as_json(report: GateReport) -> str:
    return json.dumps({"ok": report.ok, **msgspec.to_builtins(report)}, indent=2)


def _as_text(report: GateReport) -> str:
    failed = [check.name for check in report.checks if not check.ok]
    verdict = f"closed: {', '.join(failed)}" if failed else "open: every check passed"
    about = f"{report.url} {report.version} {report.environment}".strip()
    lines = [f"gate {verdict} ({about}, {report.seconds:g} s)"]
    width = max(len(check.name) for check in report.checks)
    lines += [
        f"  {'ok  ' if check.ok else 'FAIL'} {check.name:<{width}}  {harmless(check.detail)}"
        for check in report.checks
    ]
    if failed:
        lines.append(f"Why? narthex doctor {shlex.quote(report.url)}")
    return "\n".join(lines)
