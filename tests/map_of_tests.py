"""Generates docs/map-tests.md: where the tests of each module are.

Rules: a module has the file of its own name (`app/chat.py`: `tests/app/test_chat.py`). Else it has that of its package,
then the tests that import the module, those of its folder first, then those that use most of its names, then those
whose helpers import it. A module that no test imports has the tests of the nearest modules that import it, or those of
`BY_HAND`, which run it as a process.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "src" / "narthex"
SHOWN: Final = 2
SCENARIOS: Final = ["e2e/lies/test_lies.py", "e2e/test_mutations.py", "e2e/test_staging.py"]
BY_HAND: Final = {
    "bench/agents.py": ["acceptance/test_client_python.py"],
    "bench/floor.py": ["bench/test_honest.py"],
    "bench/report.py": ["cli/test_bench.py"],
    "cli/doctor.py": ["doctor/test_command.py"],
    "cli/gate.py": ["doctor/test_gate.py"],
    "wiring/agent_worker.py": ["acceptance/test_worker.py"],
    "wiring/auth_service.py": ["acceptance/test_auth_service.py"],
}
HEAD: Final = """# Where the tests of a module are

This page is generated from `src/narthex/` and `tests/`: `./check --write-docs`. Paths are below these two. "Through"
names a module that imports this one, where no test imports it itself. Suites by purpose (`contracts/`, `acceptance/`,
`campaigns/`, `security/`, `simulation/`) are described in [testing.md](testing.md).
"""


def _module(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path, modules: dict[str, Path]) -> dict[str, int]:
    """Modules of narthex that a file imports, with how many names."""
    found: dict[str, int] = defaultdict(int)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                if whole in modules:
                    found[whole] += 1
                elif node.module in modules:
                    found[node.module] += 1
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules:
                    found[alias.name] += 1
    return found


def places() -> dict[str, list[str]]:
    """By module (its path below src/narthex): test files, or `through …`."""
    modules = {_module(path): path for path in sorted(SOURCE.rglob("*.py"))}
    helpers = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for path in (ROOT / "tests").rglob("*.py")
        if not path.name.startswith(("test_", "__"))
    }
    behind = {helper: _imports(path, modules) for helper, path in helpers.items()}
    users: dict[str, list[tuple[bool, int, str]]] = defaultdict(list)
    words: dict[str, list[str]] = defaultdict(list)
    for test in sorted((ROOT / "tests").rglob("test_*.py")):
        shown = test.relative_to(ROOT / "tests")
        imports = _imports(test, modules)
        for module, count in imports.items():
            near = modules[module].parent.relative_to(SOURCE) == shown.parent
            users[module].append((not near, -count, shown.as_posix()))
        for module in {one for helper in _imports(test, helpers) for one in behind[helper]} - imports.keys():
            users[module].append((True, 0, shown.as_posix()))
        if shown.parts[0] in ("cli", "acceptance"):
            for word in _words(test):
                words[word].append(shown.as_posix())
    importers: dict[str, list[str]] = defaultdict(list)
    for module, path in modules.items():
        for imported in _imports(path, modules):
            importers[imported].append(module)
    found: dict[str, list[str]] = {}
    for module, path in modules.items():
        name = path.relative_to(SOURCE)
        own, package = name.parent / f"test_{name.name}", name.parent.parent / f"test_{name.parent.name}.py"
        mirrored = (ROOT / "tests" / own).exists()
        candidates = [one.as_posix() for one in (own, package) if (ROOT / "tests" / one).exists()]
        candidates += [test for _, _, test in sorted(users[module])]
        if name.parts[0] == "cli":
            candidates += words[name.stem]
        if name.parts[:2] == ("e2e", "scenarios"):
            candidates += SCENARIOS
        candidates += BY_HAND.get(name.as_posix(), [])
        found[name.as_posix()] = list(dict.fromkeys(candidates))[: 1 if mirrored else SHOWN] or _through(
            module, importers, users, modules
        )
    return found


def _through(
    module: str,
    importers: dict[str, list[str]],
    users: dict[str, list[tuple[bool, int, str]]],
    modules: dict[str, Path],
) -> list[str]:
    """The nearest modules that import this one and have tests."""
    level, seen = [module], {module}
    while level:
        level = [one for known in level for one in importers[known] if one not in seen]
        seen.update(level)
        tested = [one for one in level if users[one]]
        if tested:
            return [
                f"through {modules[one].relative_to(SOURCE).as_posix()}" for one in dict.fromkeys(tested)
            ][:2]
    return []


def _words(path: Path) -> set[str]:
    """The string constants of one word: names of commands that a test runs."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {node.value for node in tree if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def render() -> str:
    """The page."""
    lines = [HEAD, "| module | tests |", "| --- | --- |"]
    for name, shown in places().items():
        if name.endswith("__init__.py") or name == "__main__.py":
            continue
        lines.append(f"| `{name}` | {' · '.join(_cell(one) for one in shown) or 'none'} |")
    return "\n".join(lines) + "\n"


def holds(page: str) -> bool:
    """Whether the page has a row for each module, and each path in it exists."""
    rows = re.findall(r"^\| `([^`]+)` \| (.*) \|$", page, re.MULTILINE)
    modules = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}
    shown = {name for name in modules if not name.endswith("__init__.py") and name != "__main__.py"}
    cells = [cell for _, shown_tests in rows for cell in shown_tests.split(" · ") if cell != "none"]
    places = [
        SOURCE / cell[9:-1] if cell.startswith("through ") else ROOT / "tests" / cell[1:-1] for cell in cells
    ]
    return {name for name, _ in rows} == shown and all(place.exists() for place in places)


def _cell(text: str) -> str:
    return f"through `{text.removeprefix('through ')}`" if text.startswith("through ") else f"`{text}`"
