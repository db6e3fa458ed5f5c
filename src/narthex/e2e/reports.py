"""Renders a report as JSON, JUnit XML, one HTML page, and lines for a terminal.

Not here: the report's content (`results`). Rules: no report holds a proof; the page loads nothing from the network;
outside text is escaped.
"""

from __future__ import annotations

import json
import re
from html import escape
from itertools import groupby
from typing import Final
from xml.sax.saxutils import quoteattr

import msgspec

from narthex.e2e.results import Result, Status, SuiteReport
from narthex.reports import page

_SIGNS: Final = {
    Status.PASSED: "ok",
    Status.FAILED: "FAILED",
    Status.SKIPPED: "skipped",
    Status.NOT_RUN: "not run",
}


def as_json(report: SuiteReport) -> str:
    """For machines: the report with its sums."""
    body = msgspec.to_builtins(report) | {
        "success_rate": report.success_rate,
        "good": report.good,
        "counts": {str(status): report.count(status) for status in Status},
        "contacted": report.contacted,
        "sent": report.sent,
        "received": report.received,
    }
    return (
        json.dumps(body, indent=2) + "\n"
    )  # also escapes text that UTF-8 cannot encode: half a surrogate from the server


def as_junit(report: SuiteReport) -> str:
    """For CI: a suite a category. A scenario that was not run is a failure there, as it is here."""
    head = f'<testsuites name="narthex" {_sums(report.results)} timestamp={quoteattr(report.started_at)}>'
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', head]
    for category, members in groupby(report.results, key=lambda result: result.category):
        lines += _junit_suite(report, category, list(members))
    return "\n".join([*lines, "</testsuites>", ""])


def _sums(results: list[Result]) -> str:
    failures = sum(result.status in (Status.FAILED, Status.NOT_RUN) for result in results)
    skipped = sum(result.status is Status.SKIPPED for result in results)
    time_s = sum(result.duration_s for result in results)
    counts = f'tests="{len(results)}" failures="{failures}" errors="0" skipped="{skipped}"'
    return f'{counts} time="{time_s:.3f}"'


def _junit_suite(report: SuiteReport, category: str, results: list[Result]) -> list[str]:
    lines = [f'  <testsuite name="{category}" {_sums(results)}>', "    <properties>"]
    for name, value in facts(report):
        lines.append(f"      <property name={quoteattr(name)} value={quoteattr(_xml(value))}/>")
    lines.append("    </properties>")
    for result in results:
        lines += _junit_case(result)
    return [*lines, "  </testsuite>"]


def _junit_case(result: Result) -> list[str]:
    words = f"classname={quoteattr(f'{result.category}.{result.group}')} "
    words += f'name={quoteattr(result.name.rpartition(".")[2])} time="{result.duration_s:.3f}"'
    if result.status is Status.PASSED:
        return [f"    <testcase {words}/>"]
    element = "skipped" if result.status is Status.SKIPPED else "failure"
    told = f"<{element} message={quoteattr(_xml(result.detail))}>{escape(_xml(result.title))}</{element}>"
    return [f"    <testcase {words}>", f"      {told}", "    </testcase>"]


# XML 1.0 section 2.2 does not allow these: control characters, lone surrogates, two noncharacters.
_NO_XML: Final = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _xml(text: str) -> str:
    """`text` without the characters that XML forbids."""
    return _NO_XML.sub("�", text)


def facts(report: SuiteReport) -> list[tuple[str, str]]:
    """The facts at the head of every report: target, versions, proof, counts."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    engines = ", ".join(f"{name}: {what}" for name, what in report.engines.items())
    rows = [
        ("environment", report.environment),
        ("target", f"{report.target} {report.base_url}".strip()),
        ("engines", engines),
        ("versions", versions),
        ("contacted", ", ".join(report.contacted) or "nothing"),
        ("proof", report.proof),
        ("test run", report.test_run),
        ("started", report.started_at),
        ("duration", f"{report.duration_s:.1f} s"),
        ("bytes", f"{report.sent:,} sent, {report.received:,} received"),
        ("results", report.posted),
        ("left behind", ", ".join(report.left_behind)),
    ]
    return [(name, value) for name, value in rows if value]


def summary(report: SuiteReport) -> str:
    """One line."""
    counts = [f"{report.count(status)} {_SIGNS[status].lower()}" for status in Status if report.count(status)]
    return f"{', '.join(counts)}; success rate {report.success_rate:.1%}; {report.duration_s:.1f} s"


def line(result: Result) -> str:
    """One scenario in a terminal."""
    said = f"  {result.detail}" if result.detail else ""
    return f"{_SIGNS[result.status]:<8}{result.name} ({result.duration_s:.2f} s){said}"


def as_html(report: SuiteReport) -> str:
    """One self-contained page, failures first."""
    verdict = "passed" if report.good else "failed"
    bad = [result for result in report.results if result.status in (Status.FAILED, Status.NOT_RUN)]
    parts = [
        f'<h1>End-to-end tests <span class="{verdict}">{verdict}</span></h1>',
        f"<p>{escape(summary(report))}</p>",
        page.facts(facts(report)),
        _table(f"Failed or not run ({len(bad)})", bad) if bad else "",
    ]
    for category, members in groupby(report.results, key=lambda result: result.category):
        results = list(members)
        passed = sum(result.status is Status.PASSED for result in results)
        parts.append(_table(f"{category} ({passed} of {len(results)})", results))
    return page.page(f"narthex {report.environment}: {verdict}", parts)


def _table(heading: str, results: list[Result]) -> str:
    head = "<tr><th>status</th><th>scenario</th><th class='n'>s</th><th class='n'>bytes in</th></tr>"
    rows = "".join(
        f'<tr><td class="{result.status}">{_SIGNS[result.status]}</td>'
        f"<td><b>{escape(result.name)}</b>{escape(result.title)}{_marks(result)}{_pre(result.detail)}</td>"
        f'<td class="n">{result.duration_s:.2f}</td><td class="n">{result.received:,}</td></tr>'
        for result in results
    )
    return f"<h2>{escape(heading)}</h2>{page.scrolling(f'<table>{head}{rows}</table>', heading)}"


def _marks(result: Result) -> str:
    marks = [word for word, holds in (("incident", result.incident), ("negative", result.negative)) if holds]
    return f" <small>{', '.join(marks)}</small>" if marks else ""


def _pre(detail: str) -> str:
    return f"<pre>{escape(detail)}</pre>" if detail else ""
