"""`narthex bench`: its output, saved files and comparisons, and its exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from narthex.bench import baseline
from narthex.cli.main import run
from narthex.errors import EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE
from tests.reports.outline import figures
from tests.reports.samples import bench_report

BESIDE = f"floor={sys.executable} -m narthex.bench.floor {{port}}"


def test_scenarios_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` starts nothing."""
    assert run(["bench", "--list"]) == EXIT_OK
    assert capsys.readouterr().out.startswith("handshakes ")


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["--beside", "nothing"],
        ["--beside", "a:smoke=b {port}"],
        ["--beside", "a=b '{port}"],
        ["--url", "wss://127.0.0.1:1/"],
        ["--url", "http://[::1"],
        ["--url", "ws://127.0.0.1:1/", "--pid", "4194304"],
        ["--rounds", "0"],
        ["--tolerance", "0"],
        ["--secret-file", "no-such-file"],
        ["--api-key-file", "."],
        ["--save", "no-such-folder/bench.json"],
        ["--html", "no-such-folder/bench.html"],
        ["--read", "no-such-file"],
    ],
)
def test_what_cannot_be_measured_is_said(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown scenario, server, file or URL: exit 2 with a remedy, and no server was started."""
    assert run(["bench", *words]) == EXIT_USAGE
    seen = capsys.readouterr().err
    assert "remedy:" in seen
    assert "bug" not in seen


def test_a_missing_baseline_is_found_before_anything_is_measured(tmp_path: Path) -> None:
    """Not after minutes."""
    assert run(["bench", "echo", "--against", str(tmp_path / "none.json")]) == EXIT_USAGE


def test_a_server_that_is_not_there_is_unreachable(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 69, as for every other target."""
    assert run(["bench", "echo", "--quick", "--beside", "x=false {port}"]) == EXIT_UNREACHABLE
    assert "did not start" in capsys.readouterr().err


def test_saved_reports_are_shown_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--read` starts nothing: two saved reports give the table, the exit code and the page."""
    before, after, page = (tmp_path / name for name in ("before.json", "after.json", "compared.html"))
    baseline.save(bench_report(), before)
    baseline.save(bench_report(slower=1.5, seed=9), after)
    assert run(["bench", "--read", str(after)]) == EXIT_OK
    words = ["bench", "--read", str(after), "--against", str(before), "--html", str(page)]
    assert run(words) == EXIT_FINDINGS
    assert "Against the baseline" in capsys.readouterr().out
    assert "4 worse" in page.read_text(encoding="utf-8")
    assert run([*words, "--tolerance", "2"]) == EXIT_OK


@pytest.mark.acceptance
def test_side_by_side_saved_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new gateway beside another server; the saved report is the baseline of `--against`."""
    saved = tmp_path / "before.json"
    words = ["bench", "handshakes", "--quick", "--beside", BESIDE]
    page = tmp_path / "bench.html"
    assert run([*words, "--save", str(saved), "--html", str(page)]) == EXIT_OK
    drawn = figures(page.read_text())
    cells = drawn["handshakes, narthex: every operation, by time and latency"].table[1:]
    assert sum(int(cell.replace(",", "")) for row in cells for cell in row[1:] if cell) == 500
    assert "handshakes: distribution of latency" in drawn
    out = capsys.readouterr().out
    assert "server CPU, µs per handshake" in out
    assert "handshakes: narthex / floor" in out

    assert run([*words, "--against", str(saved), "--tolerance", "50", "--json"]) == EXIT_OK
    printed = json.loads(capsys.readouterr().out)
    assert [figure["target"] for figure in printed["report"]["figures"]] == ["narthex", "floor"]
    assert all(figure["failures"] == 0 for figure in printed["report"]["figures"])
    assert {change["what"] for change in printed["changes"]} == {"CPU µs"}

    report = json.loads(saved.read_text())
    for figure in report["figures"]:
        figure["cpu_us"] /= 1000
    saved.write_text(json.dumps(report))
    assert run([*words, "--against", str(saved)]) == EXIT_FINDINGS
    assert "Against the baseline" in capsys.readouterr().out
