"""Generates docs/numbers.md: every number that is written in the code, with its value and the comment beside it.

Not here: settings (docs/settings.md), plans (docs/plans.md). Rules: a value is that of the imported module and not of
its text; names of states (`_OPEN = 0`) are no numbers.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeGuard

SOURCES: Final = Path(__file__).parents[1] / "src" / "narthex"
PACKAGES: Final = {
    "domain": "The rules",
    "protocol": "The wire",
    "ports": "What engines must keep to",
    "app": "Handshakes, connections, runs",
    "adapters/edge": "The edge",
    "adapters/tokens": "Tokens and issuers",
    "adapters/brokers": "Brokers",
    "adapters/stores": "Stores",
    "adapters/sqlite": "SQLite files",
    "web": "HTTP routes",
    "guard": "The guard",
    "status": "The status page",
}
_INTRODUCTION: Final = """# Built-in numbers

Every time-out, limit, size and interval that is written in the code. Most of them are no settings: each has its reason
beside it, and a change is a decision. [settings.md](settings.md) has those that you can set (here with their defaults),
[plans.md](plans.md) the limits of plans. Names that end in `_S` are in seconds, in `_MS` in milliseconds. Paths are
below `src/narthex/`.

This page is generated from `src/narthex/`: `./check --write-docs`. A test compares it with the code, so that no number
changes unnoticed.
"""


class Number(NamedTuple):
    """One number: its name in its module, its value, the comment beside it."""

    name: str
    value: float
    reason: str


def numbers_page() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    for package, title in PACKAGES.items():
        parts.append(f"## {title}\n")
        for path in sorted((SOURCES / package).rglob("*.py")):
            found = list(_numbers(path))
            if found:
                parts.append(f"### {path.relative_to(SOURCES).as_posix()}\n")
                parts.append("| name | value | reason |\n| --- | --- | --- |")
                parts[-1] += "".join(
                    f"\n| `{one.name}` | {_shown(one)} | {_cell(one.reason)} |" for one in found
                )
                parts[-1] += "\n"
    return "\n".join(parts)


def _numbers(path: Path) -> Iterator[Number]:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    name = path.relative_to(SOURCES.parent).with_suffix("").as_posix().replace("/", ".")
    module = importlib.import_module(name.removesuffix(".__init__"))
    body = ast.parse(text).body
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.ClassDef):
            yield from _defaults(statement, vars(module)[statement.name], lines)
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            value = getattr(module, statement.target.id, None)
            if _is_number(value) and not (statement.target.id.startswith("_") and value in (0, 1, 2)):
                yield Number(statement.target.id, value, _reason(statement, following, lines))


def _defaults(node: ast.ClassDef, made: Any, lines: list[str]) -> Iterator[Number]:
    """Of a class of values: the defaults that are numbers and not zero."""
    try:
        parameters = inspect.signature(made).parameters
    except (TypeError, ValueError):  # made by C
        return
    fields = (one for one in node.body if isinstance(one, ast.AnnAssign) and one.value is not None)
    for statement in fields:
        if isinstance(statement.target, ast.Name):
            parameter = parameters.get(statement.target.id)
            if parameter is not None and _is_number(parameter.default) and parameter.default:
                name = statement.target.id
                reason = _reason(statement, None, lines) or _attribute(node, name)
                yield Number(f"{node.name}.{name}", parameter.default, reason)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _reason(statement: ast.AnnAssign, following: ast.stmt | None, lines: list[str]) -> str:
    """The comment of the line, of the line above, or the string below."""
    begin, end = statement.lineno - 1, (statement.end_lineno or statement.lineno) - 1
    for line in lines[begin : end + 1]:
        if "#" in line:
            return line.partition("#")[2].strip()
    if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
        return " ".join(str(following.value.value).split())
    return ""


def _attribute(node: ast.ClassDef, name: str) -> str:
    """What the docstring's section "Attributes" says of a field: its line, and those that are indented deeper."""
    lines = iter((ast.get_docstring(node) or "").splitlines())
    for line in lines:
        words = line.strip()
        if line.startswith("    ") and words.startswith(f"{name}: "):
            more = itertools.takewhile(lambda it: it.startswith("        "), lines)
            return " ".join([words.partition(": ")[2], *(it.strip() for it in more)])
    return ""


def _shown(number: Number) -> str:
    value = number.value
    for size, unit in ((1024**2, "MB"), (1024, "KB")):
        if number.name.upper().endswith("BYTES") and value >= size and value % size == 0:
            return f"{value // size:,} {unit}"
    return f"{value:,}".removesuffix(".0")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
