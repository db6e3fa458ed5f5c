"""`narthex incident` and `narthex status`, against a real `narthex status serve`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import httpx2
import pytest

from narthex.cli.main import main
from narthex.errors import EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE
from tests.acceptance.program import Program, clean_environment
from tests.timing import within

KEY = "admin-key-of-the-tests-0001"
TOKEN = "status-token-of-the-tests-01"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A status service; each test has its own incidents."""
    environment = {
        "NARTHEX_ADMIN_KEY": KEY,
        "NARTHEX_STATUS_TOKEN": TOKEN,
        "NARTHEX_STATUS_COMPONENTS": "api=Public API",
    }
    program = Program(tmp_path_factory.mktemp("status"), environment, serving="status serve")
    asyncio.run(program.start())
    yield program
    program.end()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The admin key, where an operator has it."""
    monkeypatch.setenv("NARTHEX_ADMIN_KEY", KEY)


def run(*words: str) -> int:
    """A command line; its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    return int(ended.value.code or 0)


def answer_of(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("key")
def test_an_incident_is_opened_updated_and_resolved(
    service: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command prints the incident as it is then."""
    where = ("--url", service.http, "--json")
    words = ("Answers begin late", "--text", "We look into it.", "--component", "stream", "--since", "20m")
    assert run("incident", "open", *words, *where) == EXIT_OK
    found = answer_of(capsys)
    assert (found["state"], found["impact"], found["components"]) == ("investigating", "degraded", ["stream"])
    assert (
        run("incident", "update", found["id"], "--text", "The model.", "--state", "identified", *where)
        == EXIT_OK
    )
    assert answer_of(capsys)["state"] == "identified"
    assert run("incident", "list", "--url", service.http) == EXIT_OK
    assert f"{found['id']}  identified, degraded  Answers begin late" in capsys.readouterr().out
    assert run("incident", "resolve", found["id"], *where) == EXIT_OK
    assert answer_of(capsys)["state"] == "resolved"
    run("incident", "list", *where)
    assert found["id"] not in [one["id"] for one in answer_of(capsys)]
    run("incident", "list", "--all", *where)
    assert found["id"] in [one["id"] for one in answer_of(capsys)]


@pytest.mark.usefixtures("key")
def test_maintenance_is_scheduled_and_called_off(
    service: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the same commands."""
    where = ("--url", service.http, "--json")
    words = ("Database", "--text", "A minute.", "--start", "30m", "--duration", "2h")
    assert run("incident", "schedule", *words, *where) == EXIT_OK
    found = answer_of(capsys)
    assert (found["kind"], found["state"]) == ("maintenance", "scheduled")
    assert run("incident", "resolve", found["id"], "--text", "Not needed.", *where) == EXIT_OK
    assert answer_of(capsys)["state"] == "cancelled"


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("open", "t", "--text", "x", "--component", "nope"), EXIT_FINDINGS, "no component 'nope'"),
        (("update", "aa0000000001", "--text", "x"), EXIT_FINDINGS, "no incident"),
        (("open", "t", "--text", "x", "--since", "yesterday"), EXIT_USAGE, "--since"),
        (("schedule", "t", "--text", "x", "--start", "2026-12-02T03:00:00"), EXIT_USAGE, "no time zone"),
        (("schedule", "t", "--text", "x", "--start", "2020-01-01T00:00:00Z"), EXIT_FINDINGS, "in the past"),
    ],
)
@pytest.mark.usefixtures("key")
def test_what_is_refused_is_said(
    words: tuple[str, ...], code: int, says: str, service: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the remedy."""
    assert run("incident", *words, "--url", service.http) == code
    assert says in capsys.readouterr().err


def test_without_the_right_key_nothing_changes(
    service: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status token is no key either, and the remedy names the variable."""
    words = ("incident", "open", "t", "--text", "x", "--url", service.http)
    assert run(*words) == EXIT_USAGE
    for wrong in ("another-key-0123456789", TOKEN):
        monkeypatch.setenv("NARTHEX_ADMIN_KEY", wrong)
        assert run(*words) == EXIT_FINDINGS
    told = capsys.readouterr()
    assert "NARTHEX_ADMIN_KEY" in told.err
    assert TOKEN not in told.err


def test_a_service_that_is_away_is_69(key: None, capsys: pytest.CaptureFixture[str]) -> None:
    """As for every command that speaks to a server."""
    assert run("incident", "list", "--url", "http://127.0.0.1:9") == EXIT_UNREACHABLE
    assert run("incident", "open", "t", "--text", "x", "--url", "http://127.0.0.1:9") == EXIT_UNREACHABLE
    assert run("incident", "list", "--url", "ftp://127.0.0.1") == EXIT_USAGE


def test_a_prober_reports_a_gateway_that_is_down(
    service: Program, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a credential every journey, without one only whether a connection can be opened."""
    monkeypatch.setenv("NARTHEX_STATUS_TOKEN", TOKEN)
    words = ("probe", "ws://127.0.0.1:9", "--count", "1", "--report", service.http)
    assert run(*words, "--component", "api") == EXIT_FINDINGS
    assert states_of(service, capsys) == {"api": "outage"}
    assert run(*words) == EXIT_FINDINGS
    assert states_of(service, capsys) == {"api": "outage", "connect": "outage"}
    assert run(*words, "--token", "a.b.c", "--location", "eu") == EXIT_FINDINGS
    assert set(states_of(service, capsys)) == {"api", "connect", "send", "stream", "sign_in"}
    monkeypatch.setenv("NARTHEX_STATUS_TOKEN", "wrong-token-0123456789")
    run(*words)
    assert "Check NARTHEX_STATUS_TOKEN" in capsys.readouterr().err
    monkeypatch.delenv("NARTHEX_STATUS_TOKEN")
    assert run(*words) == EXIT_USAGE


def states_of(service: Program, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The known states of the page."""
    capsys.readouterr()
    time.sleep(1.1)  # the service keeps a document for a second
    document = httpx2.get(f"{service.http}/status.json").json()
    return {one["id"]: one["state"] for one in document["components"] if one["state"] != "unknown"}


@pytest.mark.usefixtures("key")
def test_the_page_as_files(service: Program, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the database while the service uses it, and from its URL; links are relative and lead somewhere."""
    run("incident", "open", "Exported", "--text", "x", "--url", service.http, "--json")
    found = answer_of(capsys)
    for source in (("--data-dir", str(service.directory / "data")), ("--url", service.http)):
        out = tmp_path / source[0].strip("-")
        assert (
            run("status", "export", str(out), *source, "--base-url", "https://status.example.com/x")
            == EXIT_OK
        )
        names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        assert {"index.html", "status.json", "status.atom", "badge.svg", "icon.svg"} < names
        assert f"incidents/{found['id']}.html" in names
        page = (out / "index.html").read_text()
        assert f'href="incidents/{found["id"]}.html"' in page
        assert 'href="/' not in page
        feed = ET.fromstring((out / "status.atom").read_text())
        links = [link.get("href") for link in feed.iter("{http://www.w3.org/2005/Atom}link")]
        assert "https://status.example.com/x/status.atom" in links
        assert f"https://status.example.com/x/incidents/{found['id']}.html" in links
        (out / "incidents" / "old.html").write_text("over")
        assert run("status", "export", str(out), *source) == EXIT_OK
        assert not (out / "incidents" / "old.html").exists()


def test_there_is_nothing_to_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command names the directory that it looked in."""
    assert run("status", "export", str(tmp_path / "out"), "--data-dir", str(tmp_path)) == EXIT_USAGE
    assert "status.db" in capsys.readouterr().err


def test_a_wrong_setting_of_the_page_is_78(tmp_path: Path) -> None:
    """Every problem at once, before a port is open."""
    environment = {
        "NARTHEX_STATUS_LINKS": "Docs=javascript:alert(1)",
        "NARTHEX_STATUS_TIMEZONE": "Mars/Olympus",
        "NARTHEX_STATUS_COMPONENTS": "Big=Name",
        "NARTHEX_STATUS_LOGO": str(tmp_path / "none.svg"),
        "NARTHEX_STATUS_WEBHOOKS": "https://hooks.example.com/a=whsec_short",
        "NARTHEX_STATUS_URL": "https://status.example.com",
    }
    done = subprocess.run(
        [sys.executable, "-m", "narthex", "status", "serve", "--port", "0", "--data-dir", str(tmp_path)],
        env=clean_environment(environment),
        capture_output=True,
        text=True,
        timeout=within(30),
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 78
    for name in environment:
        assert name in done.stderr, done.stderr
    assert "whsec_short" not in done.stderr
    assert not list(tmp_path.iterdir())
