"""`narthex probe`: no failure of a round ends the canary."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from narthex.cli.main import run
from narthex.cli.probe import _Runner
from narthex.doctor.target import parse_target


def runner(prometheus: Path | None = None, token: str = "", html: Path | None = None) -> _Runner:
    """A canary of a closed port."""
    return _Runner(
        parse_target("ws://127.0.0.1:9/ws"),
        token=token,
        headers=(),
        every_s=0.01,
        timeout_s=1.0,
        prometheus=prometheus,
        html=html,
        ca_file="",
    )


def test_a_token_file_that_is_gone_is_a_failed_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is read again each round, and may be missing for a moment while it is replaced."""
    tally = asyncio.run(runner(token=f"@{tmp_path}/token").run(2))
    assert tally.failed == 2
    rounds = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [seen["failed"] for seen in rounds] == ["token", "token"]


def test_a_file_that_cannot_be_written_is_said_each_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, a deleted folder: the canary continues."""
    tally = asyncio.run(runner(prometheus=tmp_path / "absent" / "probe.prom").run(2))
    assert tally.failed == 2
    assert capsys.readouterr().err.count("cannot be written") == 2


def test_the_page_is_written_anew_each_round(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has every round so far, beside the JSON lines; a folder that is gone is said and ends nothing."""
    page = tmp_path / "probe.html"
    found = runner(html=page)
    for count in (1, 2):
        asyncio.run(found.run(1))
        assert f"<dd>{count}, {count} failed</dd>" in page.read_text(encoding="utf-8")
    assert len(capsys.readouterr().out.splitlines()) == 2
    found.html = tmp_path / "absent" / "probe.html"
    asyncio.run(found.run(1))
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["status.example.com", "http://[::1", "http://host:0", "ftp://host"])
def test_a_report_goes_to_a_url(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Any other text is a usage error, exit 2, before the first round."""
    monkeypatch.setenv("NARTHEX_STATUS_TOKEN", "status-token-of-the-tests-01")
    assert run(["probe", "ws://127.0.0.1:9", "--count", "1", "--report", url]) == 2
    assert "is not an http:// or https:// URL" in capsys.readouterr().err
