"""docs/cli.md as text: what `--help` says of every command. `./check --write-docs` writes it.

Not here: the help itself (the docstrings of `narthex.cli`).
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final
from unittest import mock

from narthex.cli import main
from narthex.cli.commands import COMMANDS

if TYPE_CHECKING:
    from cyclopts import App

COLUMNS: Final = 110
_HEAD: Final = """# Command line

<!-- Made from src/narthex/cli by tools/cli_page.py: `./check --write-docs` -->

What `--help` says of every command. Settings also come from variables and from narthex.toml
([settings.md](settings.md)). `--env-file FILE` sets variables that are not set. Exit codes: 0 success, 1 findings
or failures, 2 usage, 69 target unreachable, 70 bug, 78 configuration, 130 an interrupt.
"""


def page() -> str:
    """The page."""
    lines = [_HEAD]
    for name in COMMANDS:
        for words in commands_below(main.application(name)[name], (name,)):
            lines += [f"## narthex {' '.join(words)}", "", "```text", _help(words), "```", ""]
    return "\n".join(lines).rstrip() + "\n"


def commands_below(app: App, words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The words of each command, down to those that do something."""
    if app.default_command is not None:
        yield words
    for name in app:
        if not name.startswith("-"):
            yield from commands_below(app[name], (*words, name))


def _help(words: tuple[str, ...]) -> str:
    from cyclopts import App
    from rich.console import Console

    said = io.StringIO()
    # An application keeps its first console, whose width is that of an earlier caller in this process.
    wide = mock.patch.object(App, "console", property(lambda _: Console(width=COLUMNS)))
    with wide, contextlib.redirect_stdout(said):
        main.run([*words, "--help"])
    return "\n".join(line.rstrip() for line in said.getvalue().strip().splitlines())
