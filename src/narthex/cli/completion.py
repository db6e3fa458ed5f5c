"""`narthex completion SHELL`: prints a script by which the shell completes commands and options."""

from __future__ import annotations

import importlib
from typing import Literal

from cyclopts import App

from narthex.cli.commands import COMMANDS


def completion(shell: Literal["bash", "zsh", "fish"]) -> int:
    """Print the completion script of a shell.

    Examples:
        eval "$(narthex completion bash)"
        narthex completion zsh > ~/.zfunc/_narthex
        narthex completion fish > ~/.config/fish/completions/narthex.fish

    Args:
        shell: bash, zsh or fish.
    """
    app = App(name="narthex")
    for name, command in COMMANDS.items():
        module, _, attribute = command.target.partition(":")
        app.command(getattr(importlib.import_module(module), attribute), name=name)
    print(app.generate_completion(prog_name="narthex", shell=shell))
    return 0
