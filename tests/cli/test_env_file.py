"""`--env-file`: on every command, and weaker than the environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from narthex.cli import main


def check(*words: str, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`narthex check` as a program of its own."""
    command = [sys.executable, "-m", "narthex", "check", "--json", *words]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NARTHEX_")}
    return subprocess.run(
        command, env=clean | (environ or {}), capture_output=True, text=True, timeout=60, check=False
    )


def ports(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The port and log level that the command shows, each with its source."""
    rows = {row["name"]: row for row in json.loads(done.stdout)["settings"]}
    return [f"{rows[name]['value']} {rows[name]['source']}" for name in ("port", "log_level")]


def test_variables_of_a_file_count(tmp_path: Path) -> None:
    """Quotes, comments and `export` as in any `.env`; the first of two files that name a variable wins."""
    first, second = tmp_path / "first.env", tmp_path / "second.env"
    first.write_text("# ours\nexport NARTHEX_PORT='9123'\n")
    second.write_text("NARTHEX_PORT=1\nLOG_LEVEL=WARN\n")
    done = check("--env-file", str(first), f"--env-file={second}")
    assert ports(done) == ["9123 NARTHEX_PORT", "warning LOG_LEVEL"]


def test_the_environment_s_own_win(tmp_path: Path) -> None:
    """A platform's variable is not changed by a file that was forgotten in an image."""
    file = tmp_path / ".env"
    file.write_text("NARTHEX_PORT=1\n")
    assert ports(check("--env-file", str(file), environ={"NARTHEX_PORT": "2"}))[0] == "2 NARTHEX_PORT"


def test_a_file_in_the_directory_is_not_read_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `.env` of another program must not configure admission."""
    (tmp_path / ".env").write_text("NARTHEX_PORT=1\n")
    monkeypatch.chdir(tmp_path)
    assert ports(check())[0] == "8000 default"


def test_a_missing_file_is_a_configuration_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 78, before anything else happens; so is a flag without a file."""
    missing = tmp_path / "none.env"
    assert main.run(["check", "--env-file", str(missing)]) == 78
    assert str(missing) in capsys.readouterr().err
    assert main.run(["check", "--env-file"]) == 78
    assert "--env-file needs a file" in capsys.readouterr().err


def test_words_behind_two_hyphens_are_the_command_s() -> None:
    """They belong to another program."""
    assert main._with_env_files(["test", "--", "--env-file", "x"]) == ["test", "--", "--env-file", "x"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_commands_and_options(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script names a command, and an option of one."""
    assert main.run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "doctor" in script
    assert "data-dir" in script
