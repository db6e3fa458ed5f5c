"""`narthex test` and tests/unified_test_runner.py: command line, exit codes, and a light run from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from narthex.cli.main import run
from narthex.cli.test import Name
from narthex.e2e.children import free_port
from narthex.e2e.results import SuiteReport
from narthex.e2e.scenario import Category
from narthex.e2e.session import SuiteOptions
from tests.conftest import POLICY_VARIABLES

RUNNER = Path(__file__).parents[1] / "unified_test_runner.py"


def ran(
    *words: str, env: dict[str, str] | None = None, timeout_s: float = 120, said: str = ""
) -> subprocess.CompletedProcess[str]:
    """The runner as users start it, in a clean environment."""
    environ = {name: value for name, value in os.environ.items() if name not in POLICY_VARIABLES}
    return subprocess.run(
        [sys.executable, str(RUNNER), *words],
        input=said,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environ | (env or {}),
        check=False,
    )


def test_the_categories_are_listed() -> None:
    """All twelve, with what they depend on."""
    done = ran("--list-categories")
    assert done.returncode == 0
    for word in (
        *("smoke", "startup", "unit", "websocket", "auth", "agent", "chat", "integration", "e2e"),
        *("resilience", "performance", "security"),
    ):
        assert word in done.stdout


def test_every_category_can_be_named() -> None:
    """By the same name as everywhere else."""
    assert set(get_args(Name)) == {str(category) for category in Category}
    words = (*("--env", "staging"), *("--base-url", f"http://127.0.0.1:{free_port()}"))
    for more in (("--category", "e2e", "--real-services"), ("--categories", "e2e", "websocket")):
        assert ran(*words, *more).returncode == 78, "it was understood, and only the proof is missing"


@pytest.mark.parametrize(
    "words",
    [
        ("--env", "moon"),
        ("--category", "nothing"),
        ("--pattern", "no such scenario anywhere"),
        ("--parallel", "0"),
        ("--json-output", "/no/such/folder/report.json"),
        ("--junit", "/"),
        ("--base-url", "notaurl", "--token", "a.b.c"),
        ("--base-url", "wss://chat.example.com", "--token", "a.b.c"),
        ("--base-url", "http://[::1", "--token", "a.b.c"),
        ("--base-url", "http://user:word@127.0.0.1:1", "--token", "a.b.c"),
        ("--env", "production"),
        ("--env", "production", "--allow-production", "--base-url", "http://127.0.0.1:1"),
        (
            *("--env", "production", "--allow-production", "--base-url", "http://127.0.0.1:1"),
            "--category",
            "e2e",
        ),
        ("--env", "production", "--base-url", "http://127.0.0.1:1", "--token", "a.b.c"),
    ],
)
def test_a_wrong_command_line_is_2(words: tuple[str, ...]) -> None:
    """Among them missing requirements for production; nothing is contacted."""
    done = ran(*words)
    assert done.returncode == 2, done.stderr
    assert "error:" in done.stderr


def test_no_proof_is_78_and_no_target_is_69() -> None:
    """Each with its remedy."""
    target = f"http://127.0.0.1:{free_port()}"
    done = ran("--env", "staging", "--base-url", target)
    assert done.returncode == 78
    assert "E2E_OAUTH_SIMULATION_KEY" in done.stderr
    done = ran("--env", "staging", "--base-url", target, "--token", "-", said="a.b.c\n")
    assert done.returncode == 69, done.stderr
    done = ran("--env", "staging", "--base-url", target, env={"E2E_OAUTH_SIMULATION_KEY": "k" * 40})
    assert done.returncode == 69
    assert "remedy:" in done.stderr
    assert "k" * 40 not in done.stderr


@pytest.mark.acceptance
def test_a_report_on_standard_output_stands_there_alone() -> None:
    """A machine reads it from a pipe; text for people goes to standard error."""
    done = ran("--env", "local", "--pattern", "the_bypass", "--json-output", "-")
    assert json.loads(done.stdout)["good"] is True
    assert "success rate 100.0%" in done.stderr


@pytest.mark.acceptance
def test_a_light_run_with_all_its_reports(tmp_path: Path) -> None:
    """One gateway of our own, smoke: exit 0, three reports, the figures posted."""
    outputs = {form: tmp_path / f"report.{form}" for form in ("json", "xml", "html")}
    done = ran(
        *("--env", "local", "--category", "smoke", "--parallel", "4"),
        *(
            "--json-output",
            str(outputs["json"]),
            "--junit",
            str(outputs["xml"]),
            "--html",
            str(outputs["html"]),
        ),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    body = json.loads(outputs["json"].read_text())
    assert body["good"] is True
    assert body["posted"].startswith("posted: success rate 100.0%")
    assert body["proof"] == "key"
    assert body["target"] == "local gateway"
    assert body["left_behind"] == []
    assert outputs["xml"].read_text().startswith("<?xml")
    assert "100.0%" in outputs["html"].read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("--env", "staging"),
            "a local staging started for it (two gateways, NATS, PostgreSQL, an OIDC issuer, a proxy)",
        ),
        (("--env", "local"), "a local gateway started for it, with embedded engines"),
        (("--env", "local", "--real-services"), "a local staging started for it"),
        (
            ("--env", "staging", "--base-url", "http://127.0.0.1:9"),
            "the deployed staging at http://127.0.0.1:9",
        ),
        (("--category", "unit"), "without a server"),
    ],
)
def test_it_says_first_which_system_is_tested(
    words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything starts: `--env staging` without `--base-url` contacts no deployed system."""
    seen: list[str] = []

    async def run_nothing(options: SuiteOptions, progress: object) -> SuiteReport:
        seen.append(capsys.readouterr().err)
        raise KeyboardInterrupt

    monkeypatch.setattr("narthex.cli.test.run_suite", run_nothing)
    monkeypatch.setenv("E2E_OAUTH_SIMULATION_KEY", "k" * 40)
    assert run(["test", *words]) == 130
    (first,) = seen
    assert first.startswith("testing: ")
    assert says in first
    assert ("no deployed system is touched" in first) is ("started for it" in says)
