"""`narthex doctor URL`: finds out why a WebSocket fails. `narthex doctor --explain CODE` explains a code.

Not here: probing and diagnosing (`narthex.doctor`). Rules: the first line on stdout names the cause; progress goes to
stderr and only to a terminal; exit 0 when it works (warnings do not count without --strict), 1 when
it does not, 69 when nothing answers.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from narthex.cli.arguments import given_headers, given_token, seconds_of, usage, writable
from narthex.doctor import reports
from narthex.doctor.diagnosis import Diagnosis, diagnose
from narthex.doctor.examination import PATIENCE_S, ExaminationOptions, Progress, examine
from narthex.doctor.handbook import explain
from narthex.doctor.observations import Observations
from narthex.doctor.target import Target, parse_target
from narthex.errors import EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE, ClientError

Flag = Parameter(negative=(), show_default=False)


def doctor(
    url: str = "",
    *,
    token: Annotated[str, Parameter(env_var="NARTHEX_TOKEN", allow_leading_hyphen=True)] = "",
    header: tuple[str, ...] = (),
    origin: str = "",
    hold: str = "0",
    timeout: str = "5s",
    ca_file: str = "",
    thorough: Annotated[bool, Flag] = False,
    explain_code: Annotated[str, Parameter(name="--explain")] = "",
    as_json: Annotated[bool, Parameter(name="--json", negative=(), show_default=False)] = False,
    junit: Path | None = None,
    details: Annotated[bool, Flag] = False,
    strict: Annotated[bool, Flag] = False,
) -> int:
    """Say why a WebSocket does not work. Any server; more is checked when it is a narthex.

    Exits 0 when it works, 1 when something is wrong, 69 when nothing answers.

    Examples:
        narthex doctor wss://chat.example.com/ws
        narthex doctor wss://chat.example.com/ws --token @token.txt --hold 10m
        narthex doctor --explain 1006

    Args:
        url: as clients use it: wss://host/path. Of a narthex the path may be left out.
        token: sent as Bearer token and as subprotocol, to the named host only; `-` reads it from stdin, `@FILE`
            from a file.
        header: one more header for the handshake, `Name: value`; repeat it for more.
        origin: the page that connects; default the host's own.
        hold: hold sockets this long (10m) to find idle and life-time limits.
        timeout: of each step.
        ca_file: a root certificate to trust besides the system's.
        thorough: every combination of credential, Origin, path and size.
        explain_code: explain a signature, a refusal, a close code (1006) or an HTTP status (502); probe nothing.
        as_json: findings and every observation, for machines.
        junit: write the findings as JUnit XML.
        strict: let warnings exit 1 as well.
        details: list everything that was seen even when nothing is wrong.
    """
    try:
        writable(junit)
    except ClientError as error:
        return usage(error)
    if not url and not explain_code:
        print("error: No URL is given.\nremedy: narthex doctor wss://host/ws", file=sys.stderr)
        return EXIT_USAGE
    try:
        if explain_code:
            print(explain(explain_code))
            return EXIT_OK
        target = parse_target(url)
        timeout_s = max(0.1, seconds_of("timeout", timeout))
        options = ExaminationOptions(
            token=given_token(token),
            headers=given_headers(header),
            origin=origin,
            hold_s=seconds_of("hold", hold),
            timeout_s=timeout_s,
            patience_s=max(PATIENCE_S, timeout_s),
            thorough=thorough,
            ca_file=ca_file,
        )
    except ClientError as error:
        return usage(error)
    seen = _examined(target, options, quiet=as_json)
    diagnosis = diagnose(seen)
    text = reports.as_json(diagnosis, seen) if as_json else reports.as_text(diagnosis, seen, details=details)
    print(text)
    if junit is not None:
        junit.write_text(reports.as_junit(diagnosis, seen), encoding="utf-8")
    return exit_code(diagnosis, strict=strict)


def exit_code(diagnosis: Diagnosis, *, strict: bool = False) -> int:
    """See the module."""
    if not diagnosis.reachable:
        return EXIT_UNREACHABLE
    return EXIT_FINDINGS if diagnosis.failed or (strict and diagnosis.findings) else EXIT_OK


def _examined(target: Target, options: ExaminationOptions, *, quiet: bool) -> Observations:
    if quiet or not sys.stderr.isatty():
        return asyncio.run(examine(target, options))
    from rich.console import Console

    with Console(stderr=True).status(f"examining {target.shown}") as status:

        def progress(step: str) -> None:
            status.update(reports.harmless(step))

        shown: Progress = progress
        return asyncio.run(examine(target, options, shown))
