"""The entry point: every command exists, help is quick, every error becomes an exit code and a sentence."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.cli_page import commands_below

from narthex import __version__
from narthex.adapters.telemetry.redaction import REDACTOR
from narthex.cli import commands, main
from narthex.cli.commands import COMMANDS, CliCommand
from narthex.errors import Bug, ClientError, ConfigError, DependencyError, NarthexError
from tests.timing import TIME_UNIT

CLI = Path(commands.__file__).parent


def test_every_command_can_be_loaded() -> None:
    """The list names what exists."""
    for name, command in COMMANDS.items():
        module, _, attribute = command.target.partition(":")
        assert hasattr(importlib.import_module(module), attribute), name


def test_every_command_is_in_the_list() -> None:
    """A file with an `app`, or a function with its own name, is a command that users must be able to find."""
    listed = {command.target.partition(":")[0] for command in COMMANDS.values()}
    for path in CLI.glob("[a-z]*.py"):
        name = f"narthex.cli.{path.stem}"
        module = importlib.import_module(name)
        if path.stem != "main" and (hasattr(module, "app") or callable(getattr(module, path.stem, None))):
            assert name in listed


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], []])
def test_help_lists_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """On request it is a success; without arguments it is a usage error."""
    assert main.run(words) == (0 if words else 2)
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in text
        assert command.help in text


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_with_examples_that_the_command_takes(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command and subcommand shows examples; their words are parsed as a user's would be."""
    monkeypatch.setenv("COLUMNS", "80")
    for words in commands_below(main.application(name)[name], (name,)):
        assert main.run([*words, "--help"]) == 0
        _, _, shown = capsys.readouterr().out.partition("\nExamples:\n")
        lines = [line.strip() for line in shown.strip().splitlines()]
        assert lines, " ".join(words)
        for line in lines:
            example = re.fullmatch(r"(?:[A-Z_]+=\S+ |eval \"\$\()*narthex (.+?)(?: > \S+|\)\")?", line)
            assert example is not None, f"{line}: an example is a command, on one line of 80 columns"
            taken = shlex.split(example[1])
            assert tuple(taken[: len(words)]) == words, line
            main.application(name).parse_args(taken, exit_on_error=False, print_error=False)


def test_a_usage_error_names_the_help_of_its_subcommand(capsys: pytest.CaptureFixture[str]) -> None:
    """The help of `deploy` has none of the options of `deploy render`."""
    assert main.run(["deploy", "render", "--platform", "nowhere"]) == 2
    assert "remedy: Run narthex deploy render --help." in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """As the package says."""
    assert main.run(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_an_unknown_command_is_a_usage_error_with_a_guess(capsys: pytest.CaptureFixture[str]) -> None:
    """On stderr."""
    assert main.run(["chekc"]) == 2
    assert capsys.readouterr().err == (
        "error: No command is named 'chekc'.\nremedy: Did you mean narthex check?\n"
    )


@pytest.mark.parametrize("words", [["check", "--nonsense"], ["check", "--port", "x"], ["check", "extra"]])
def test_a_wrong_option_is_a_usage_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2, and the message names the option."""
    assert main.run(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words[1].strip("-") in error
    assert "remedy: Run narthex check --help." in error


def failing(error: BaseException) -> Callable[[], None]:
    """A command that raises."""

    def command() -> None:
        """Fail."""
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            ConfigError(["A is wrong. Fix it.", "B too. Fix it."]),
            78,
            "error: A is wrong. Fix it.\nerror: B too.",
        ),
        (DependencyError("gateway", "Nothing listens there.", "Start it."), 69, "remedy: Start it."),
        (
            ClientError("bad", "That cannot be done.", "Do this."),
            1,
            "error: That cannot be done.\nremedy: Do this.",
        ),
        (Bug("broken", "An invariant does not hold."), 70, "error: An invariant does not hold."),
        (NarthexError("x", "Something.", "Else."), 70, "error: Something."),
        (ValueError("oops"), 70, "error: This is a bug in narthex."),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_errors_become_exit_codes_and_sentences(
    error: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The codes of docs/design.md#command-line."""
    monkeypatch.setattr(sys.modules[__name__], "command", failing(error), raising=False)
    monkeypatch.setitem(COMMANDS, "fail", CliCommand(f"{__name__}:command", "Fail."))
    assert main.run(["fail"]) == code
    assert text in capsys.readouterr().err


def test_what_an_error_prints_is_redacted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bug's traceback goes to a terminal that is logged."""
    REDACTOR.register(["a-Live-Secret-0123456789"])
    error = RuntimeError("Authorization: Bearer abc.def.ghi a-Live-Secret-0123456789")
    monkeypatch.setattr(sys.modules[__name__], "command", failing(error), raising=False)
    monkeypatch.setitem(COMMANDS, "fail", CliCommand(f"{__name__}:command", "Fail."))
    try:
        assert main.run(["fail"]) == 70
    finally:
        REDACTOR.forget()
    text = capsys.readouterr().err
    assert "RuntimeError" in text
    assert "abc.def" not in text
    assert "Live-Sec" not in text


def test_of_a_long_traceback_the_end_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line names the error."""
    error: Exception = ValueError("the first cause")
    for number in range(300):
        error, cause = RuntimeError(f"because of that, number {number} went wrong as well"), error
        error.__cause__ = cause
    monkeypatch.setattr(sys.modules[__name__], "command", failing(error), raising=False)
    monkeypatch.setitem(COMMANDS, "fail", CliCommand(f"{__name__}:command", "Fail."))
    assert main.run(["fail"]) == 70
    assert "RuntimeError: because of that, number 299 went wrong as well\nerror: This is a bug" in (
        capsys.readouterr().err
    )


def test_help_and_version_import_only_what_they_need() -> None:
    """So that they answer at once; measured 0.03 s."""
    code = (
        "import sys; from narthex.cli.main import run; run(['--help']); run(['--version']);"
        "heavy = {'cyclopts', 'pydantic', 'rich', 'uvicorn', 'starlette', 'structlog', 'msgspec'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.alone
def test_help_is_quick() -> None:
    """Below 0.15 s from the shell; the best of five, because machines are shared."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "narthex", "--help"], capture_output=True, timeout=30, check=True
        )
        took.append(time.perf_counter() - began)
    assert min(took) < 0.15 * TIME_UNIT, took


def test_a_reader_that_goes_away_is_no_error() -> None:
    """`narthex check | head -1`."""
    command = f"{sys.executable} -m narthex check --all | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.startswith(f"narthex {__version__}")
    assert done.stderr == ""
