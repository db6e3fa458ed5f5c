"""`narthex check`: its output, its redaction, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import quote

import pytest

from narthex.cli.check import render
from narthex.cli.main import run
from narthex.settings import load
from narthex.wiring.connection_checks import ConnectionCheck

KEY = "a-canary-Key-0123456789-abcdefgh"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)


def test_it_says_in_words_what_would_hold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The environment's row, admission, the source of each setting; never a secret."""
    monkeypatch.setenv("ENVIRONMENT", "staging")
    monkeypatch.setenv("E2E_TEST_ENV", "staging")
    monkeypatch.setenv("E2E_OAUTH_SIMULATION_KEY", KEY)
    monkeypatch.setenv("NARTHEX_JWKS_URL", "https://id.example/jwks")
    assert run(["check", "--port", "9000"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "environment         staging",
        "listens on          0.0.0.0:9000",
        "a test identity by proof of the key",
        "admitted by proof; detected by E2E_TEST_ENV, E2E_OAUTH_SIMULATION_KEY",
        "default: https://id.example/jwks",
        "--port",
        "set ",
    ):
        assert expected in text
    assert KEY[:8] not in text
    assert "NARTHEX_MAX_HEADERS" not in text


def test_all_shows_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Also the defaults."""
    assert run(["check", "--all"]) == 0
    assert "NARTHEX_MAX_HEADERS" in capsys.readouterr().out


def test_json_is_for_machines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The same facts; still no secret."""
    monkeypatch.setenv("E2E_OAUTH_SIMULATION_KEY", KEY)
    assert run(["check", "--json"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text)
    assert found["ok"] is True
    assert found["listen"] == {"host": "127.0.0.1", "port": 8000}
    assert found["e2e_testing"]["variables"] == {"E2E_OAUTH_SIMULATION_KEY": "SET"}
    assert {"section", "name", "variable", "value", "source"} == set(found["settings"][0])
    assert KEY[:8] not in text


def test_a_bad_configuration_exits_78_with_every_problem(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr for people, on stdout for machines."""
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("STAGING_E2E_TEST", "1")
    assert run(["check"]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
    assert run(["check", "--json"]) == 78
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert any("STAGING_E2E_TEST" in problem for problem in found["problems"])


def test_keys_and_agents_are_tried(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Faults that serve would meet after the settings: an unreadable key, a missing agent."""
    monkeypatch.setenv("NARTHEX_JWT_PUBLIC_KEY", "garbage")
    assert run(["check", "--agent", "nowhere:at_all"]) == 78
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "NARTHEX_JWT_PUBLIC_KEY" in errors[0]
    assert "nowhere:at_all" in errors[1]
    monkeypatch.delenv("NARTHEX_JWT_PUBLIC_KEY")
    (tmp_path / "checked_agents.py").write_text("async def parrot(run):\n    yield 'x'\n")
    assert run(["check", "--agent", "checked_agents:parrot"]) == 0
    assert {path.name for path in tmp_path.iterdir()} <= {"checked_agents.py", "__pycache__"}


def test_the_first_line_says_when_something_does_not_answer() -> None:
    """`check --connect` does not promise a trouble-free start above a list with a FAIL."""
    settings = load({}, {})
    answers, silent = (ConnectionCheck("broker", "", ok, "detail", "", 1.0) for ok in (True, False))
    first = [render(settings, every=False, trials=[trial]).splitlines()[0] for trial in (answers, silent)]
    assert first[0].endswith("would start:")
    assert first[1].endswith("would start, but a service that it needs does not respond:")


def test_warnings_are_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings that work but should not stay that way."""
    monkeypatch.setenv("ENVIRONMENT", "staging")
    assert run(["check"]) == 0
    assert "warning: No issuer and no users are configured" in capsys.readouterr().out


def test_a_settings_file_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And each value names that file as its source."""
    file = tmp_path / "other.toml"
    file.write_text("max_headers = 99\n")
    assert run(["check", "--config", str(file)]) == 0
    assert f"max_headers in {file}" in capsys.readouterr().out


@pytest.mark.parametrize("character", "/#?[]@%:,;=&+ äß")
@pytest.mark.parametrize(
    "variable", ["NARTHEX_BROKER_URL=nats", "NARTHEX_BROKER_URL=redis", "NARTHEX_STORE_URL=postgresql"]
)
def test_passwords_in_urls_are_never_printed(
    variable: str, character: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoded or not: each engine's URL is shown without its password, or refused (78) with the reason."""
    name, _, scheme = variable.partition("=")
    raw, encoded = f"canary{character}tail", quote(f"canary{character}tail", safe="")
    for password, codes in ((encoded, {0}), (raw, {0, 78})):
        monkeypatch.setenv(name, f"{scheme}://app:{password}@db.example/0")
        assert run(["check", "--all"]) in codes
        text = "".join(capsys.readouterr())
        assert "canary" not in text
        assert "tail" not in text.replace("details", "")
        assert "db.example" in text or "%2F" in text


@pytest.mark.parametrize("environment", ["development", "testing"])
def test_it_names_those_who_may_sign_in(
    environment: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Any e-mail, or the configured users."""
    monkeypatch.setenv("ENVIRONMENT", environment)
    assert run(["check"]) == 0
    assert "the embedded provider (any e-mail)" in capsys.readouterr().out
    Path("narthex.toml").write_text('[[users]]\nemail = "ada@example.com"\n')
    assert run(["check"]) == 0
    assert "the embedded provider (1 users)" in capsys.readouterr().out
