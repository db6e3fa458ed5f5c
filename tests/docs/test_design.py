"""docs/design.md against the code: every class, file, method and argument in its diagrams exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
JOURNEYS = re.findall(r"### ([^\n]+)\n(?:(?!\n##).)*?```mermaid\n(sequenceDiagram\n.*?)```", PAGE, re.DOTALL)


class Participant(NamedTuple):
    """A class in a diagram; `methods` maps each of its methods to the names of its parameters."""

    name: str
    methods: dict[str, list[str]]


def functions(path: Path, name: str) -> dict[str, list[str]]:
    """The methods of a class, those of its bases in the same file included."""
    classes = {
        node.name: node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }
    assert name in classes, f"{path.name} has no class {name}"
    found: dict[str, list[str]] = {}
    for base in classes[name].bases:
        if isinstance(base, ast.Name) and base.id in classes:
            found |= functions(path, base.id)
    for node in classes[name].body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found[node.name] = [
                arg.arg for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            ]
    return found


def participants(diagram: str) -> dict[str, Participant | None]:
    """By alias; None for a participant that is not one of our classes, such as the client."""
    found: dict[str, Participant | None] = {}
    for alias, name, path in re.findall(r"participant (\w+) as (\w+)(?:<br/>([\w/]+\.py))?\n", diagram):
        place = ROOT / "src" / "narthex" / path
        found[alias] = Participant(name, functions(place, name)) if path else None
    return found


def test_there_is_one_diagram_for_each_journey() -> None:
    """A handshake, an event, a message that becomes a run, a node that dies."""
    assert [title for title, _ in JOURNEYS] == [
        "A handshake",
        "An event, from the agent to the socket",
        "A message becomes a run",
        "A node that dies",
    ]


@pytest.mark.parametrize(("title", "diagram"), JOURNEYS, ids=[title for title, _ in JOURNEYS])
def test_a_diagram_names_what_exists(title: str, diagram: str) -> None:
    """Each message to one of our classes is a call of one of its methods, with that method's parameters."""
    known = participants(diagram)
    calls = 0
    for sender, receiver, text in re.findall(r"^\s*(\w+)-?->>(\w+): (.+)$", diagram, re.MULTILINE):
        assert {sender, receiver} <= known.keys(), f"{title}: {sender} or {receiver} is no participant"
        target = known[receiver]
        call = re.match(r"(\w+)\(([^)]*)\)", text)
        if target is None or call is None:
            continue
        calls += 1
        method, arguments = call.group(1), [word.strip() for word in call.group(2).split(",") if word.strip()]
        assert method in target.methods, f"{title}: {target.name} has no {method}"
        unknown = [word for word in arguments if word not in target.methods[method]]
        assert not unknown, f"{title}: {target.name}.{method} takes no {unknown}"
    assert calls >= 5


def test_the_layers_are_those_that_are_enforced() -> None:
    """The line of the page equals the layers that `[tool.importlinter]` checks."""
    import tomllib

    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = config["tool"]["importlinter"]["contracts"][0]["layers"]
    enforced = [set(re.findall(r"[\w.]+", layer)) - {"_version"} for layer in layers]
    line = next(line for line in PAGE.splitlines() if line.startswith("cli > "))
    shown = [set(part.split(" | ")) for part in line.split(" > ")]
    assert enforced == shown


def test_every_path_of_the_page_exists() -> None:
    """Files of `src/narthex/` and of the repository, in backticks."""
    for text in re.findall(r"`([\w./-]+/(?:[\w-]+\.\w+)?)`", PAGE):
        assert any((base / text).exists() for base in (ROOT, ROOT / "src" / "narthex")), text
