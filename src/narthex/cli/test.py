"""`narthex test`: the end-to-end suite against local, staging or production. tests/unified_test_runner.py is the same.

Not here: scenarios and running them (`narthex.e2e`). Rules: proofs come from the environment, a file or stdin; exit 0
when everything passed, 1 with failures, 2 for a wrong command line, 69 when the target does not answer or an engine
is missing, 78 for a configuration that must change first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Literal, TextIO

from cyclopts import Parameter

from narthex.cli.arguments import given_token, usage, writable
from narthex.e2e import reports
from narthex.e2e.results import Result, Status, SuiteReport
from narthex.e2e.runner import Progress
from narthex.e2e.scenario import DEPENDS_ON, Category, Scenario, every
from narthex.e2e.session import SuiteOptions, chosen, subject
from narthex.e2e.session import test as run_suite
from narthex.e2e.system_under_test import RunnerProof
from narthex.errors import EXIT_FINDINGS, EXIT_OK, ClientError

KEY_VARIABLE = "E2E_OAUTH_SIMULATION_KEY"
CI_VARIABLE = "NARTHEX_CI_OIDC_TOKEN"
Name = Literal[
    "unit", "smoke", "startup", "websocket", "auth", "security", "chat", "agent", "integration", "e2e",
    "resilience", "performance",
]  # fmt: skip
"""`Category` by its values: of the enumeration itself the command line would make `e2-e`."""
Flag = Parameter(negative=(), show_default=False)
Many = Parameter(consume_multiple=True, negative_iterable=())

Output = Annotated[Path | None, Parameter(allow_leading_hyphen=True)]
"""A file to write to; `-` is standard output."""


def test(
    *,
    env: Literal["local", "staging", "production"] = "local",
    category: Annotated[tuple[Name, ...], Parameter(negative_iterable=())] = (),
    categories: Annotated[tuple[Name, ...], Many] = (),
    list_categories: Annotated[bool, Flag] = False,
    real_services: Annotated[bool, Flag] = False,
    base_url: str = "",
    parallel: int = 1,
    pattern: str = "",
    fail_fast: Annotated[bool, Flag] = False,
    json_output: Output = None,
    junit: Output = None,
    html: Output = None,
    resume_from: str = "",
    token: Annotated[
        str, Parameter(env_var="NARTHEX_TOKEN", show_env_var=True, allow_leading_hyphen=True)
    ] = "",
    allow_production: Annotated[bool, Flag] = False,
) -> int:
    """Run the end-to-end suite.

    Without --base-url a local system is started: for staging two gateways, NATS, PostgreSQL, an OIDC issuer and a
    proxy; for local one gateway with its embedded engines. With it the deployed system is tested, proved by
    E2E_OAUTH_SIMULATION_KEY or NARTHEX_CI_OIDC_TOKEN from the environment, or by --token.

    Examples:
        narthex test --env staging
        narthex test --env staging --base-url https://staging.example.com

    Args:
        env: local, staging or production.
        category: one category; repeatable.
        categories: several categories.
        list_categories: list them and run nothing.
        real_services: real engines for --env local too; staging always has them.
        base_url: the deployed system to test, as https://chat.example.com.
        parallel: scenarios at a time.
        pattern: part of a scenario's name or title, or a glob over names.
        fail_fast: begin nothing after the first failure.
        json_output: write the report as JSON; `-` writes it to standard output, and everything for people to stderr.
        junit: write it as JUnit XML; likewise.
        html: write it as one HTML page; likewise.
        resume_from: leave out the scenarios before this one.
        token: proves the runner where there is no key; `-` reads it from stdin, `@FILE` from a file.
        allow_production: yes, production is meant; needs --token, runs smoke only.
    """
    if list_categories:
        print(listing())
        return EXIT_OK
    try:
        options = SuiteOptions(
            environment=env,
            categories=tuple(Category(name) for name in (*category, *categories)),
            real=real_services,
            base_url=base_url,
            parallel=_at_least_one(parallel),
            pattern=pattern,
            fail_fast=fail_fast,
            resume_from=resume_from,
            proof=_proof(token),
            allow_production=allow_production,
        )
        scenarios = chosen(options)
        for path in (json_output, junit, html):
            writable(path)
    except ClientError as error:
        return usage(error)
    print(f"testing: {subject(options, scenarios)}", file=sys.stderr, flush=True)
    with _shown(len(scenarios)) as progress:
        report = asyncio.run(_interruptible(options, progress))
    printed = any(str(path) == "-" for path in (json_output, junit, html))
    _tell(report, sys.stderr if printed else sys.stdout)  # a report on standard output stands there alone
    for path, write in ((json_output, reports.as_json), (junit, reports.as_junit), (html, reports.as_html)):
        _write(path, write, report)
    return EXIT_OK if report.good else EXIT_FINDINGS


def listing() -> str:
    """Categories with what they depend on and how many scenarios they have."""
    counts = {category: sum(found.category is category for found in every()) for category in Category}
    lines = [f"{'category':<14}{'scenarios':>9}  depends on"]
    for category in Category:
        needed = ", ".join(DEPENDS_ON[category]) or "-"
        lines.append(f"{category:<14}{counts[category]:>9}  {needed}")
    return "\n".join(lines)


def _at_least_one(parallel: int) -> int:
    if not 1 <= parallel <= 64:
        raise ClientError(
            "bad_parallel", "--parallel is not between 1 and 64.", "Give a small number, such as 4."
        )
    return parallel


def _proof(token: str) -> RunnerProof:
    return RunnerProof(
        key=os.environ.get(KEY_VARIABLE, "").strip(),
        ci_token=os.environ.get(CI_VARIABLE, "").strip(),
        token=given_token(token) if token else "",
    )


def _write(path: Path | None, write: Callable[[SuiteReport], str], report: SuiteReport) -> None:
    if path is None:
        return
    if str(path) == "-":
        print(write(report))
    else:
        path.write_text(write(report), encoding="utf-8")


async def _interruptible(options: SuiteOptions, progress: Progress) -> SuiteReport:
    """SIGTERM ends the run as Ctrl-C does: in order, with every child ended."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await run_suite(options, progress)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


@contextlib.contextmanager
def _shown(total: int) -> Iterator[Progress]:
    """Progress: a line for each scenario that ended, and on a terminal what runs at the moment."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    done = 0
    colours = {Status.PASSED: "green", Status.SKIPPED: "yellow"}
    with console.status("starting") if console.is_terminal else contextlib.nullcontext() as status:

        def progress(scenario: Scenario, result: Result | None) -> None:
            nonlocal done
            if result is None:
                if status is not None:
                    status.update(f"{done}/{total} {scenario.category} · {scenario.name}")
                return
            done += 1
            console.print(Text(reports.line(result), style=colours.get(result.status, "red")))

        yield progress


def _tell(report: SuiteReport, out: TextIO) -> None:
    for name, value in reports.facts(report):
        print(f"{name:<12} {value}", file=out)
    for result in report.results:
        if result.status in (Status.FAILED, Status.NOT_RUN):
            print(f"{reports.line(result)}\n        {result.title}", file=out)
    print(reports.summary(report), file=out)
