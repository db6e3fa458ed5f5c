"""`narthex deploy render` and `narthex check --platform`: files, findings, exit codes, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from narthex.cli.main import run
from narthex.errors import EXIT_CONFIG, EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine's."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("NARTHEX_")]:
        monkeypatch.delenv(name)


def test_what_render_writes_check_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A round trip by the two commands, into a directory."""
    out = tmp_path / "out"
    assert (
        run(["deploy", "render", "--platform", "cloud-run", "--out", str(out), "--domain", "chat.acme.com"])
        == EXIT_OK
    )
    assert "chat.acme.com" in (out / "service.yaml").read_text()
    assert run(["check", "--platform", "cloud-run", str(out)]) == EXIT_OK
    assert "0 error(s), 0 warning(s)" in capsys.readouterr().out


def test_render_replaces_no_file_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A person's changes of yesterday stay, unless --force is given."""
    command = ["deploy", "render", "--platform", "nginx", "--out", str(tmp_path)]
    assert run(command) == EXIT_OK
    (tmp_path / "narthex.conf").write_text("mine")
    assert run(command) == EXIT_USAGE
    assert "is there already" in capsys.readouterr().err
    assert (tmp_path / "narthex.conf").read_text() == "mine"
    assert run([*command, "--force"]) == EXIT_OK


def test_render_takes_the_settings_of_the_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A longer drain gives a longer grace."""
    monkeypatch.setenv("NARTHEX_DRAIN_GRACE_S", "60")
    monkeypatch.setenv("NARTHEX_ALLOWED_HOSTS", "chat.acme.com")
    assert run(["deploy", "render", "--platform", "kubernetes"]) == EXIT_OK
    text = capsys.readouterr().out
    assert "terminationGracePeriodSeconds: 70" in text
    assert "host: chat.acme.com" in text


@pytest.mark.parametrize(
    ("variables", "words", "upstream"),
    [
        ({}, [], "127.0.0.1:8000"),
        ({"NARTHEX_PORT": "9300"}, [], "127.0.0.1:9300"),
        ({}, ["--port", "9301"], "127.0.0.1:9301"),
        ({"NARTHEX_PORT": "9300"}, ["--upstream", "10.0.0.7:8000"], "10.0.0.7:8000"),
        ({"NARTHEX_PORT": "0"}, [], "127.0.0.1:8000"),
    ],
)
def test_a_proxy_finds_the_gateway_at_the_port_of_the_settings(
    variables: dict[str, str],
    words: list[str],
    upstream: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Unless --upstream names it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert run(["deploy", "render", "--platform", "nginx", *words]) == EXIT_OK
    assert f"server {upstream};" in capsys.readouterr().out


def test_a_finding_has_its_file_line_and_remedy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people as `file:line: …`, for machines as JSON; the exit code is 1."""
    script = tmp_path / "deploy.sh"
    script.write_text(
        "gcloud run deploy chat --timeout 3600 \\\n  --no-cpu-throttling --concurrency 900 --timeout 300\n"
    )
    assert run(["check", "--platform", "cloud-run", str(script)]) == EXIT_FINDINGS
    said = capsys.readouterr().out
    assert f"{script}:2: error: --timeout is given twice" in said
    assert "remedy: Keep one of them." in said
    assert run(["check", "--platform", "cloud-run", str(script), "--json"]) == EXIT_FINDINGS
    found = json.loads(capsys.readouterr().out)
    assert found["ok"] is False
    assert {"overridden", "request_timeout"} <= {finding["code"] for finding in found["findings"]}
    assert all(set(finding) == {"code", "severity", "file", "line", "message", "consequence", "remedy"}
               for finding in found["findings"])  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["check", "some.yaml"],
        ["check", "--platform", "nginx"],
        ["check", "--platform", "nginx", "/nowhere/at.all"],
        ["check", "--platform", "heroku", "x"],
        ["deploy", "render"],
        ["deploy", "render", "--platform", "heroku"],
    ],
)
def test_wrong_usage_is_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A pipeline must not take it for a good manifest, nor for a finding."""
    assert run(words) == EXIT_USAGE
    assert "error:" in capsys.readouterr().err


def test_a_file_that_cannot_be_parsed_is_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The operator must correct it."""
    (tmp_path / "x.yaml").write_text("a: [\n")
    assert run(["check", "--platform", "kubernetes", "x.yaml"]) == EXIT_CONFIG
    assert "x.yaml:2: this is not YAML" in capsys.readouterr().err


def test_a_chart_without_helm_is_69(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing program is named, with the way round it."""
    assert run(["deploy", "render", "--platform", "helm", "--out", "chart"]) == EXIT_OK
    monkeypatch.setattr("narthex.deploy.checking.program_path", lambda _name: None)
    assert run(["check", "--platform", "helm", "chart"]) == EXIT_UNREACHABLE
    assert "helm template" in capsys.readouterr().err


def test_without_the_parsers_the_extra_is_named(tmp_path: Path) -> None:
    """The base installation renders; checking YAML asks for `narthex[deploy]`, with exit 78."""
    (tmp_path / "x.yaml").write_text("a: b\n")
    program = (
        "import sys; sys.modules['yaml'] = None\n"
        "from narthex.cli.main import main\n"
        "main(['check', '--platform', 'kubernetes', 'x.yaml'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == EXIT_CONFIG
    assert "pip install 'narthex[deploy]'" in done.stderr
