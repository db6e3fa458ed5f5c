"""The names that others script against, as JSON: settings, flags, commands, metrics, refusals, routes.

At a release its output becomes `released_….json` beside this file (docs/releasing.md).

Not here: comparing them (`test_compatibility`). Wire and schema have tests of their own.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

from cyclopts import App

import narthex
from narthex.adapters.telemetry.catalogue import CATALOGUE
from narthex.cli.commands import COMMANDS
from narthex.domain.refusals import TABLE
from narthex.settings import tables
from narthex.settings.groups import option_fields
from narthex.settings.options import facts

TABLES = ("IssuerSettings", "UserSettings", "PlanSettings", "Claims")


def contracts() -> dict[str, Any]:
    """Kind → name → what others rely on."""
    return {
        "settings": {
            name: {"variables": list(known.variables), "flag": known.flag}
            for name, (section, field) in option_fields().items()
            for known in (facts(name, field, section),)
        },
        "tables": {name: sorted(getattr(tables, name).model_fields) for name in TABLES},
        "commands": _commands(),
        "metrics": {metric.full_name: sorted(metric.labels) for metric in CATALOGUE},
        "refusals": {code: [row.http, row.close] for code, row in TABLE.items()},
        "routes": sorted(_routes()),
    }


def _commands() -> dict[str, list[str]]:
    """Command → its flags."""
    app = App(name="narthex")
    for name, command in COMMANDS.items():
        module, _, attribute = command.target.partition(":")
        app.command(getattr(importlib.import_module(module), attribute), name=name)
    found: dict[str, list[str]] = {}
    _add_flags(app, (), found)
    return found


def _add_flags(app: App, above: tuple[str, ...], found: dict[str, list[str]]) -> None:
    for name in sorted(app):
        if name.startswith("-"):
            continue
        command = app[name]
        if command.default_command is not None:
            arguments = command.assemble_argument_collection()
            names = {flag for argument in arguments for flag in argument.names if flag.startswith("--")}
            found[" ".join((*above, name))] = sorted(names)
        _add_flags(command, (*above, name), found)


def _routes() -> set[str]:
    """Every text in the code of routes that is a path: more than the routes, never fewer."""
    package = Path(narthex.__file__).parent
    files = [*(package / "web").rglob("*.py"), package / "domain/endpoints.py"]
    constants = (
        node.value
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant)
    )
    return {text for text in constants if isinstance(text, str) and re.fullmatch(r"/[\w./{}-]*", text)}


if __name__ == "__main__":
    json.dump(contracts(), sys.stdout, indent=1, sort_keys=True)
    sys.stdout.write("\n")
