"""A prober's rounds as a page: latencies of those that worked, failures as failures."""

from __future__ import annotations

import re

from narthex.doctor.canary_report import SHOWN_FAILURES, as_html
from tests.reports.outline import figures
from tests.reports.samples import STEPS, rounds

URL = "wss://chat.example.com/ws?<b>"


def test_a_day_has_its_plots() -> None:
    """Percentiles, the slowest steps, heat map and distribution; every round that worked is in them."""
    page = as_html(rounds(2880, failing=range(900, 960)), URL)
    found = figures(page)
    whole = found["Time of a whole round"]
    assert len(whole.boxes("band")) == 60
    assert whole.paths("line")[0].count("M") == 2, "the outage is a gap"
    assert found["Median of the slowest steps"].table[0][1:] == [
        f"{name}, ms" for name in ("health", "handshake", "event", "resume")
    ]
    heat = found["Every round that worked, by time and latency"]
    assert sum(int(cell) for row in heat.table[1:] for cell in row[1:] if cell) == 2880 - 60
    assert "Distribution of a round's time" in found
    assert "97.92%" in page
    assert all(f'<th scope="row">{name}</th>' in page for name in STEPS)


def test_failures_are_listed_newest_first_and_bounded() -> None:
    """With the step and the detail, which comes from outside and is escaped."""
    page = as_html(rounds(200, failing=range(100, 200)), URL)
    assert page.count("<li>") == SHOWN_FAILURES
    assert "<b>handshake</b> HTTP 503 &lt;b&gt;" in page
    assert "50 more before these" in page
    assert 'class="failed">failed: handshake' in page


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    """Self-contained; the URL is escaped."""
    page = as_html(rounds(5), URL)
    assert "<script" not in page
    assert "?<b>" not in page
    assert not re.search(r"""(?:src|href|style)=|@import|url\(""", page)


def test_a_page_of_failures_only() -> None:
    """There is nothing to plot, and no division by nothing."""
    page = as_html(rounds(1, failing=range(1)), URL)
    assert figures(page) == {}
    assert "0.00%" in page
