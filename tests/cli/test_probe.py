"""`narthex probe`: no failure of a round ends the canary."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from narthex.cli.probe import _Runner
from narthex.doctor.target import parse_target


def runner(tmp_path: Path, prometheus: Path | None = None, token: str = "") -> _Runner:
    """A canary of a closed port."""
    return _Runner(
        parse_target("ws://127.0.0.1:9/ws"),
        token=token,
        headers=(),
        every_s=0.01,
        timeout_s=1.0,
        prometheus=prometheus,
        ca_file="",
    )


def test_a_token_file_that_is_gone_is_a_failed_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is read again each round, and may be missing for a moment while it is replaced."""
    tally = asyncio.run(runner(tmp_path, token=f"@{tmp_path}/token").run(2))
    assert tally.failed == 2
    rounds = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [seen["failed"] for seen in rounds] == ["token", "token"]


def test_a_file_that_cannot_be_written_is_said_each_round(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, a deleted folder: the canary continues."""
    tally = asyncio.run(runner(tmp_path, prometheus=tmp_path / "absent" / "probe.prom").run(2))
    assert tally.failed == 2
    assert capsys.readouterr().err.count("cannot be written") == 2
