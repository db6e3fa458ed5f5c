"""The entry point: finds the command, runs it, and turns what it raises into an exit code and a sentence.

Not here: the commands (one file each), their list (`commands.py`). Rules: `narthex --help` and `--version` import
nothing but the standard library; exit codes are those of docs/design.md#command-line; an error is printed to
stderr, names the remedy, and passes the redactor.
"""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from narthex._version import __version__
from narthex.cli.commands import COMMANDS, overview
from narthex.cli.terminal import make_printable
from narthex.errors import (
    EXIT_BUG,
    EXIT_CONFIG,
    EXIT_FINDINGS,
    EXIT_OK,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    ClientError,
    ConfigError,
    Damaged,
    DependencyError,
    NarthexError,
)

if TYPE_CHECKING:
    from cyclopts import App

_EXAMPLES: Final = re.compile(r"^Examples:\n((?: .*\n?)+)", re.MULTILINE)
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells do


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; never returns."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    code = run(words)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output (`head`) has gone; without this Python complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        make_printable(stream)
    try:
        words = _with_env_files(words)
    except ConfigError as error:
        return report(error)
    if not words or words[0] in ("--help", "-h", "help"):
        print(overview(__version__))
        return EXIT_OK if words else EXIT_USAGE
    if words[0] in ("--version", "-V", "version"):
        print(__version__)
        return EXIT_OK
    if words[0] not in COMMANDS:
        return _unknown(words[0])
    try:
        return _run_command(words)
    except NarthexError as error:
        return report(error)
    except ModuleNotFoundError as error:
        return _not_installed(error)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_OK
    except Exception as error:  # the last resort: every other exception is a bug of narthex
        return _report_bug(error)


def _with_env_files(words: Sequence[str]) -> Sequence[str]:
    """Read the files of `--env-file` into the environment, and return the words without them.

    Variables that are set already stay, so that the platform's win; of several files the first that names one wins.

    Raises:
        ConfigError: a file cannot be read.
    """
    rest: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "--":
            return [*rest, word, *queue]
        name, given, path = word.partition("=")
        if name != "--env-file":
            rest.append(word)
            continue
        if not given:
            path = queue.pop(0) if queue else ""
        from narthex.cli.env_file import read_env_file

        for variable, value in read_env_file(path).items():
            os.environ.setdefault(variable, value)
    return rest


def _run_command(words: Sequence[str]) -> int:
    from cyclopts import CycloptsError

    try:
        result = application(words[0])(
            list(words), exit_on_error=False, print_error=True, result_action="return_value"
        )
    except CycloptsError:
        return EXIT_USAGE
    return result if isinstance(result, int) and not isinstance(result, bool) else EXIT_OK


def application(name: str) -> App:
    """The cyclopts application with the one command that was asked for."""
    from cyclopts import App

    app = App(
        name="narthex",
        version=__version__,
        help_format="plaintext",
        help_formatter="plain",
        error_formatter=lambda error: (
            f"error: {error}\nremedy: Run narthex {' '.join(error.command_chain or (name,))} --help."
        ),
        suppress_keyboard_interrupt=False,
    )
    module, _, attribute = COMMANDS[name].target.partition(":")
    target: Any = getattr(importlib.import_module(module), attribute)
    app.command(target, name=name)
    _show_examples(app)
    return app


def _show_examples(app: App) -> None:
    """Let the help of each command end with the examples of its docstring, which cyclopts leaves out."""
    import inspect

    found = _EXAMPLES.search(inspect.getdoc(app.default_command) or "") if app.default_command else None
    app.help_epilogue = f"Examples:\n{found[1].rstrip()}" if found else ""
    for name in app:
        if not name.startswith("-"):
            _show_examples(app[name])


def _unknown(word: str) -> int:
    import difflib

    close = difflib.get_close_matches(word, COMMANDS, n=1)
    hint = f"Did you mean narthex {close[0]}?" if close else "narthex --help lists them."
    _say(f"error: No command is named {word[:40]!r}.", f"remedy: {hint}")
    return EXIT_USAGE


def report(error: NarthexError) -> int:
    """Print what happened and the remedy; returns the exit code."""
    if isinstance(error, ConfigError):
        _say(*(f"error: {problem}" for problem in error.problems))
        return EXIT_CONFIG
    _say(f"error: {error.message}", f"remedy: {error.remedy}" if error.remedy else "")
    if isinstance(error, DependencyError):
        return EXIT_CONFIG if isinstance(error, Damaged) else EXIT_UNREACHABLE
    return EXIT_FINDINGS if isinstance(error, ClientError) else EXIT_BUG


REQUIRED: Final = (
    "argon2", "cryptography", "cyclopts", "fluxgate", "httptools", "httpx2", "joserfc", "msgspec", "prometheus_client",
    "psutil", "dotenv", "pydantic_settings", "rfc8785", "rich", "starlette", "structlog", "uvicorn", "websockets",
)  # fmt: skip
"""Import names of the packages that `pip install narthex` always installs (a test reads pyproject.toml)."""


def _not_installed(error: ModuleNotFoundError) -> int:
    """A package that narthex asks for is missing: the installation is wrong, and not narthex."""
    from narthex.extras import Need, command, extra_of, importable, missing_extras

    name = (error.name or "").partition(".")[0]
    if name in REQUIRED:
        lacking = ", ".join(module for module in REQUIRED if not importable(module))
        problem = f"This Python ({sys.executable}) lacks packages that narthex needs: {lacking}."
        checkout = Path(__file__).parents[3]
        narthex = shlex.quote(str(checkout)) if (checkout / "pyproject.toml").exists() else "narthex"
        where = f"{shlex.quote(sys.executable)} -m pip install {narthex}"
        print(f"error: {problem}", file=sys.stderr)
        print(f"remedy: Use the Python of the environment that has narthex, or: {where}", file=sys.stderr)
        return EXIT_CONFIG
    extra = extra_of(error.name or "")
    if extra is not None:
        broken = f"The extra {extra} is not installed whole ({error}). Install: {command(extra)}."
        print(f"error: {missing_extras([Need(extra, 'This command')]) or broken}", file=sys.stderr)
        return EXIT_CONFIG
    return _report_bug(error)


def _report_bug(error: Exception) -> int:
    import traceback

    from narthex.adapters.telemetry.redaction import MAX_TRACEBACK, REDACTOR

    trace = "".join(traceback.format_exception(error)).rstrip()
    # The end of a traceback names the error. Cut after masking, so that no half secret stays.
    _say(
        REDACTOR.text(trace, limit=len(trace))[-MAX_TRACEBACK:],
        "error: This is a bug in narthex.",
        "remedy: Report it with the lines above.",
    )
    return EXIT_BUG


def _say(*lines: str) -> None:
    from narthex.adapters.telemetry.redaction import MAX_TRACEBACK, REDACTOR

    for line in lines:
        if line:
            print(REDACTOR.text(line, limit=MAX_TRACEBACK), file=sys.stderr)
