"""Reports: readable by machines and people, complete, without a credential, without a request."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as ET

from narthex.e2e import reports
from narthex.e2e.results import Result, Status, SuiteReport


def report() -> SuiteReport:
    """One result of each status, with text that breaks careless writers."""
    hostile = 'a <script>alert(1)</script> & "quotes" \x00 \x1b[31m \uffff \ud800'

    def result(name: str, status: Status, detail: str = "") -> Result:
        return Result(
            name=f"group.{name}",
            category="smoke" if name == "good" else "e2e",
            group="group",
            title=f"{name} is true.",
            status=status,
            detail=detail,
            duration_s=1.5,
            received=10,
            contacted=["ws://target"],
        )

    return SuiteReport(
        environment="staging",
        target="deployed system",
        base_url="https://target",
        versions={"narthex": "1"},
        proof="key",
        started_at="2026-01-01T00:00:00+00:00",
        duration_s=6,
        results=[
            result("good", Status.PASSED),
            result("bad", Status.FAILED, hostile),
            result("skipped", Status.SKIPPED, "with leave"),
            result("blocked", Status.NOT_RUN, "smoke failed"),
        ],
    )


def test_the_sums() -> None:
    """A skip does not count; a scenario that was not run counts as not passed."""
    assert report().success_rate == 1 / 3
    assert not report().good
    assert not SuiteReport(environment="local", target="none").good, "a run of nothing has proved nothing"
    skipped = [result for result in report().results if result.status is Status.SKIPPED]
    assert not SuiteReport(environment="local", target="none", results=skipped).good, (
        "nor has one of skips only"
    )


def test_json_has_everything() -> None:
    """With the sums beside the results."""
    body = json.loads(reports.as_json(report()))
    assert body["counts"] == {"passed": 1, "failed": 1, "skipped": 1, "not_run": 1}
    assert body["contacted"] == ["ws://target"]
    assert body["proof"] == "key"
    assert len(body["results"]) == 4


def test_junit_is_xml_whose_sums_are_right() -> None:
    """A scenario that was not run is a failure; control characters of an answer do not break the file."""
    root = ET.fromstring(reports.as_junit(report()))
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("4", "2", "1")
    assert len(root.findall(".//failure")) == 2
    assert len(root.findall(".//skipped")) == 1
    assert [suite.get("name") for suite in root] == ["smoke", "e2e"]
    assert root.find(".//property[@name='versions']") is not None


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    """Self-contained, escaped, failures first."""
    page = reports.as_html(report())
    assert "<script" not in page
    assert not re.search(r"""(?:src|href)=|@import|url\(""", page)
    assert page.index("Failed or not run (2)") < page.index("group.good")
    for value in ("staging", "https://target", "narthex 1", "ws://target"):
        assert value in page


def test_every_report_can_be_written() -> None:
    """Whatever the server sent: half a surrogate must not prevent the report."""
    for write in (reports.as_json, reports.as_junit, reports.as_html):
        assert write(report()).encode()


def test_the_terminal_lines() -> None:
    """One line per scenario, one for all."""
    assert "success rate 33.3%" in reports.summary(report())
    assert reports.line(report().results[0]) == "ok      group.good (1.50 s)"
