"""One run of the suite from options to a report: find or start the target, run, post the figures, tidy up.

Not here: flags (`cli/test.py`), running (`runner`). Rules: a run that would touch production without leave is refused
before it contacts the target; a target that reports production is left alone unless production was requested; every
thread and process of the run is ended or deleted, also when the run is interrupted.
"""

from __future__ import annotations

import contextlib
import platform
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import httpx2
import msgspec

from narthex._version import __version__
from narthex.domain.endpoints import http_url
from narthex.e2e.results import Result, Status, SuiteReport
from narthex.e2e.runner import Progress, Runner, select, silent
from narthex.e2e.scenario import Category, Scenario, every
from narthex.e2e.staging import Staging, staging
from narthex.e2e.system_under_test import RunnerProof, SystemUnderTest
from narthex.errors import ClientError, ConfigError, NarthexError

NO_PROOF: Final = (
    "No credential is given for the deployed system. Set E2E_OAUTH_SIMULATION_KEY to the key of that system or "
    "NARTHEX_CI_OIDC_TOKEN to the token of your CI, or give --token."
)


class SuiteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one run.

    Attributes:
        environment: `local`, `staging` or `production`.
        categories: empty: all (in production: smoke).
        real: real engines for `local`; staging always has them.
        base_url: a deployed system; empty: a local one is started.
        proof: for a deployed system; a local one is proved by the key made for it.
    """

    environment: str = "local"
    categories: tuple[Category, ...] = ()
    real: bool = False
    base_url: str = ""
    parallel: int = 1
    pattern: str = ""
    fail_fast: bool = False
    resume_from: str = ""
    proof: RunnerProof = RunnerProof()
    allow_production: bool = False


def subject(options: SuiteOptions, scenarios: Sequence[Scenario]) -> str:
    """One line that names the system under test, and the options that would select another."""
    count = f"{len(scenarios)} scenario{'' if len(scenarios) == 1 else 's'}"
    if not any(scenario.serves for scenario in scenarios):
        return f"{count} without a server"
    if options.base_url:
        deployed = "system" if options.environment == "local" else options.environment
        return f"{count} against the deployed {deployed} at {options.base_url}"
    made = (
        "a local staging started for it (two gateways, NATS, PostgreSQL, an OIDC issuer, a proxy)"
        if runs_real_engines(options)
        else "a local gateway started for it, with embedded engines"
    )
    return f"{count} against {made}; no deployed system is touched (--base-url URL tests one)"


def runs_real_engines(options: SuiteOptions) -> bool:
    """Whether a local system gets NATS, PostgreSQL, an issuer and a proxy."""
    return options.real or options.environment == "staging"


def chosen(options: SuiteOptions) -> list[Scenario]:
    """Check the options and select. Raises ClientError (usage) or ConfigError (no proof)."""
    categories = options.categories
    if options.environment == "production":
        _may_touch_production(options)
        categories = (Category.SMOKE,)
    if options.base_url:
        _is_base_url(options.base_url)
    found = select(
        every(), categories or tuple(Category), pattern=options.pattern, resume_from=options.resume_from
    )
    if options.base_url and options.proof.kind == "none" and any(scenario.serves for scenario in found):
        raise ConfigError([NO_PROOF])
    return found


def _is_base_url(text: str) -> None:
    parts = http_url(text)
    if parts is None or parts.query:
        raise ClientError(
            "bad_base_url",
            "--base-url is not an http:// or https:// URL of a gateway.",
            "Give it as https://host[:port], without a query.",
        )
    if parts.username or parts.password:
        raise ClientError(
            "credential_in_url",
            "--base-url contains a user or password.",
            "Remove it; use --token or the key.",
        )


def _may_touch_production(options: SuiteOptions) -> None:
    if not options.allow_production:
        raise ClientError(
            "production",
            "Tests against production need an explicit permission.",
            "Add --allow-production if you mean to test production.",
        )
    if not options.base_url:
        raise ClientError("production", "A local production does not exist.", "Give --base-url.")
    if options.proof.kind != "token":
        raise ClientError(
            "production",
            "Production admits no test identities.",
            "Give --token of a user, best in a tenant of its own.",
        )
    if set(options.categories) - {Category.SMOKE}:
        raise ClientError(
            "production", "Only the category smoke runs in production.", "Use --category smoke."
        )


async def test(options: SuiteOptions, progress: Progress = silent) -> SuiteReport:
    """Run the suite.

    Raises:
        ClientError: the options contradict themselves.
        ConfigError: no proof, or the target is production and production was not requested.
        DependencyError: the target does not answer, or a local one could not be started.
    """
    scenarios = chosen(options)
    began = time.monotonic()
    report = SuiteReport(
        environment=options.environment,
        target="no server",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"runner": __version__, "python": platform.python_version()},
    )
    if not any(scenario.serves for scenario in scenarios):
        report.results = await _runner(None, options, progress).run(scenarios)
        report.duration_s = round(time.monotonic() - began, 3)
        return report
    async with _target(options, report) as system:
        try:
            report.results = await _runner(system, options, progress).run(scenarios)
        finally:
            report.left_behind = await system.tidy()
        report.duration_s = round(time.monotonic() - began, 3)
        report.posted = await post(system, report)
    return report


def _runner(system: SystemUnderTest | None, options: SuiteOptions, progress: Progress) -> Runner:
    return Runner(system, parallel=options.parallel, fail_fast=options.fail_fast, progress=progress)


@contextlib.asynccontextmanager
async def _target(options: SuiteOptions, report: SuiteReport) -> AsyncIterator[SystemUnderTest]:
    async with contextlib.AsyncExitStack() as stack:
        if options.base_url:
            system = SystemUnderTest(options.base_url, options.environment, options.proof)
            report.target = "deployed system"
        else:
            real = runs_real_engines(options)
            made: Staging = await stack.enter_async_context(staging(options.environment, real=real))
            system = made.system_under_test()
            report.target = "local staging" if real else "local gateway"
            report.engines = made.engines
        await system.open()
        stack.push_async_callback(system.close)
        system.leave_production_alone()
        await system.check_proof()
        report.base_url, report.test_run = system.base_url, system.test_run
        report.proof = system.proof.kind
        report.versions = {"narthex": system.versions["narthex"]} | report.versions
        report.health = {name: system.health.get(name) for name in ("status", "environment", "e2e_testing")}
        yield system


async def post(system: SystemUnderTest, report: SuiteReport) -> str:
    """Post the figures to the gateway for its metrics and status page; returns the outcome in words."""
    body = {
        "test_run": system.test_run,
        "passed": report.count(Status.PASSED),
        "failed": report.count(Status.FAILED) + report.count(Status.NOT_RUN),
        "skipped": report.count(Status.SKIPPED),
        "duration_s": report.duration_s,
        "environment": report.environment,
        "report": _brief(report),
    }
    try:
        answer = await system.post("/api/v1/e2e/results", headers=await system.headers(), json=body)
    except (httpx2.HTTPError, AssertionError, NarthexError) as fault:
        return f"not posted: {system.hide(str(fault))[:200]}"
    rate = f"success rate {report.success_rate:.1%}"
    if answer.status_code == 200:
        return f"posted: {rate}"
    return f"not posted ({answer.status_code}): {rate}"


def _brief(report: SuiteReport) -> dict[str, Any]:
    """The report in the size that the store takes: sums, and the names of failed scenarios."""
    bad = [result for result in report.results if result.status in (Status.FAILED, Status.NOT_RUN)]
    by_category: dict[str, dict[str, int]] = {}
    for result in report.results:
        counts = by_category.setdefault(result.category, {})
        counts[str(result.status)] = counts.get(str(result.status), 0) + 1
    return {
        "success_rate": report.success_rate,
        "target": report.target,
        "versions": report.versions,
        "categories": by_category,
        "failed": [_named(result) for result in bad[:100]],
    }


def _named(result: Result) -> dict[str, str]:
    return {"name": result.name, "detail": result.detail[:300]}
