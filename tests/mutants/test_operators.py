"""The mutation run itself: a mutant is one change, at its place, that compiles; the seed decides which are drawn."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants import run as tool
from tests.mutants.operators import Mutant, mutants_of
from tests.mutants.run import ROOT, SOURCES, Coverage, Verdict, draw, run_tests
from tests.timing import within

SOURCE = '''"""A module: 1 < 2."""

LIMIT = 3


async def take(items, most: int = 5):
    """Return some; never more than 1."""
    if not items or len(items) >= (most):
        raise ValueError("ä", "too many")
    await items.load()
    try:
        log.info("n %d", 7)
        return items[0] + LIMIT
    finally:
        items.close()
'''


def after_each() -> set[tuple[str, str, str]]:
    """What each mutant exchanges."""
    return {(mutant.operator, mutant.before, mutant.after) for mutant in mutants_of("m.py", SOURCE)}


@pytest.mark.parametrize(
    "change",
    [
        ("constant", "3", "4"),
        ("constant", "5", "6"),
        ("operator", "or", "and"),
        ("operator", "not ", ""),
        ("boundary", ">=", ">"),
        ("raise", 'raise ValueError("ä", "too many")', "pass"),
        ("call", "await items.load()", "pass"),
        ("exit", "items[0] + LIMIT", "None"),
        ("operator", "+", "-"),
        ("clean-up", "items.close()", "pass"),
    ],
)
def test_each_kind_of_change_is_made(change: tuple[str, str, str]) -> None:
    """A comparison, an operator, a constant, an exit, a raise, a clean-up and a call are each changed once."""
    assert change in after_each()


def test_prose_and_logging_are_left_alone() -> None:
    """A docstring and a log call are no behaviour that a test could miss."""
    assert not any("log.info" in before or before in ("7", "1", "2") for _, before, _ in after_each())


def test_a_change_is_made_at_its_place_only() -> None:
    """All other lines stay as they are, also behind a character of two bytes."""
    for mutant in mutants_of("m.py", SOURCE):
        changed = mutant.applied(SOURCE).splitlines()
        differing = [index for index, line in enumerate(SOURCE.splitlines(), 1) if changed[index - 1] != line]
        assert differing == [mutant.line]


def test_the_seed_decides() -> None:
    """The same seed draws the same mutants, another one others."""
    assert draw(5, 20) == draw(5, 20) != draw(6, 20)


def test_a_mutant_is_what_a_test_imports(tmp_path: Path) -> None:
    """With the plugin, pytest imports the changed source of one module, and all others as they are."""
    told = tmp_path / "mutant.json"
    source = SOURCES / "domain" / "limits.py"
    changed = source.read_text(encoding="utf-8") + "\nCHANGED = True\n"
    told.write_text(json.dumps({"module": "narthex.domain.limits", "path": str(source), "source": changed}))
    script = (
        "import sys; from tests.mutants.plugin import install; install(sys.argv[1]); "
        "import narthex.domain.limits as m, narthex.domain.plans; print(m.CHANGED)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(told)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


def test_a_mutant_is_judged_in_a_fork(tmp_path: Path) -> None:
    """The tests of an unchanged source pass there; those of a changed one fail, and the first is named."""
    told = tmp_path / "mutant.json"
    path = SOURCES / "domain" / "mentions.py"
    source = path.read_text(encoding="utf-8")
    (mutant,) = (found for found in mutants_of("domain/mentions.py", source) if found.after == "not in")
    tests = ["tests/domain/test_mentions.py"]
    told.write_text("{}")
    assert run_tests(tests, told, within(60)) == ("survived", "")
    told.write_text(
        json.dumps({"module": "narthex.domain.mentions", "path": str(path), "source": mutant.applied(source)})
    )
    outcome, by = run_tests(tests, told, within(60))
    assert outcome == "killed"
    assert by.startswith("FAILED tests/domain/test_mentions.py::")


def test_a_run_that_was_cut_short_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each verdict is written to the file at once; a truncated line is judged again, the others are not."""
    mutants = draw(5, 4)
    judged: list[Mutant] = []

    def judge(mutant: Mutant, *_: object) -> Verdict:
        judged.append(mutant)
        return Verdict(mutant, "killed" if len(judged) % 2 else "survived", "FAILED x")

    monkeypatch.setattr(Coverage, "load", lambda: Coverage({}))
    monkeypatch.setattr(tool, "judge", judge)
    results = tmp_path / "results.jsonl"
    first = tool.run(mutants[:3], 1, results)
    lines = results.read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 3
    results.write_text("".join(lines[:2]) + lines[2][:20] + "\n", encoding="utf-8")
    judged.clear()
    again = tool.run(mutants, 1, results)
    assert judged == [first[2].mutant, mutants[3]]
    assert [verdict.mutant for verdict in again] == mutants
    assert again[:2] == first[:2]
