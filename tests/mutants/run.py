"""Draws mutants by a seed, runs the tests that execute the changed line, and counts the mutants that no test noticed.

Not here: what a mutant is (operators.py), how pytest gets it (plugin.py). Rules: the same seed, count and sources draw
the same mutants; a test that failed while the tests were mapped judges nothing; a time-out counts as noticed, since a
hang is; a change of a line that no test executes counts as unnoticed.
"""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final, TypeGuard

from tests.mutants import child, plugin
from tests.mutants.operators import Mutant, compiles, mutants_of

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = ROOT / "src" / "narthex"
WORK: Final = ROOT / ".mutants"
MAP: Final = WORK / "map.coverage"
DURATIONS: Final = MAP.with_suffix(".durations.json")
EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")
IN_PROCESS: Final = (
    *(
        "adapters",
        "app",
        "client",
        "contracts",
        "docs/test_numbers.py",
        "domain",
        "guard",
        "protocol",
        "security",
        "settings",
        "status",
        "web",
        "wiring",
    ),
)
"""Folders of tests that call narthex in their own process; a started program does not see a mutant."""
MATTER: Final = (
    *("app/**/*.py", "domain/**/*.py", "protocol/**/*.py"),
    *("adapters/brokers/**/*.py", "adapters/stores/**/*.py", "adapters/sqlite/**/*.py"),
    *("adapters/edge/**/*.py", "adapters/tokens/**/*.py"),
    *("adapters/telemetry/alert_rules.py", "adapters/telemetry/redaction.py"),
    *("guard/**/*.py", "web/agui/*.py", "web/verify.py", "web/e2e.py", "web/oidc.py"),
    *("web/auth.py", "web/access.py", "web/fallbacks.py", "web/request_rules.py", "web/tickets.py"),
    *(
        "status/reporting.py",
        "status/routes.py",
        "status/sampling.py",
        "status/service.py",
        "status/webhooks.py",
    ),
)
"""The modules that decide on admission, on delivery, and on what operators and users learn of a failure."""
FIRST: Final = 12
"""Tests of the first batch: most mutants die there."""
MOST_TESTS: Final = 120
MOST_OF_MODULE: Final = 1_000  # for a constant: a table of them has one quick test among many
MOST_S: Final = 60.0
"""Bounds of the tests that judge one mutant: number, and the seconds that they took while they were mapped."""
SLACK_S: Final = 40.0
"""A batch may take three times as long as it took, and this, before it counts as hanging."""

FORKS: Final = multiprocessing.get_context("forkserver")
"""Each run of pytest is a fork of a process which has imported the libraries: that saves most of its time."""
FORKS.set_forkserver_preload(list(child.LIBRARIES))


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: `killed`, `timeout`, `survived`, `unreached` (no test executes it), `equivalent`."""

    mutant: Mutant
    outcome: str
    by: str = ""

    @property
    def noticed(self) -> bool:
        """Whether a test failed or hung."""
        return self.outcome in ("killed", "timeout")


@dataclass
class Coverage:
    """Which tests execute a line, and how long each takes."""

    durations: dict[str, float]
    lines: dict[str, dict[int, frozenset[str]]] = field(default_factory=dict)

    @classmethod
    def load(cls) -> Coverage:
        """From the files of the last mapping.

        Raises:
            SystemExit: when there is no map.
        """
        from coverage import CoverageData

        if not MAP.exists():
            sys.exit("There is no map of the tests yet: run python -m tests.mutants --map")
        data = CoverageData(basename=str(MAP))
        data.read()
        read = cls(json.loads(DURATIONS.read_text(encoding="utf-8")))
        for measured in data.measured_files():
            path = Path(measured)
            if path.is_relative_to(SOURCES):
                by_line = data.contexts_by_lineno(measured)
                read.lines[path.relative_to(SOURCES).as_posix()] = {
                    line: frozenset(contexts) - {""} for line, contexts in by_line.items()
                }
        return read

    def tests_of(self, mutant: Mutant, source: str) -> list[str]:
        """The tests that execute the line, nearest and fastest first, within the bounds."""
        lines = self.lines.get(mutant.path, {})
        found: set[str] = set()
        near = "tests/" + mutant.path.rpartition("/")[0] + "/"
        most = MOST_TESTS
        if _at_module_level(mutant, source):
            most = MOST_OF_MODULE
            # Executed in the first test that imports it, and used by all of them; a table has no other line.
            found = {test for tests in lines.values() for test in tests}
            found |= {test for test in self.durations if test.startswith(near)}
        else:
            for line in _candidates(mutant, source):
                found |= lines.get(line, frozenset())
                if found:
                    break
        own = f"test_{Path(mutant.path).stem}.py"
        good = [test for test in found if self.durations.get(test, -1.0) >= 0.0]
        good.sort(key=lambda test: (own not in test, not test.startswith(near), self.durations[test], test))
        chosen: list[str] = []
        spent = 0.0
        for test in good:
            spent += self.durations[test]
            if len(chosen) >= most or spent > MOST_S:
                break
            chosen.append(test)
        return chosen


def _candidates(mutant: Mutant, source: str) -> Iterator[int]:
    """The line of the change, then the lines of its innermost statement; of a default, the function's body."""
    yield mutant.line
    best: ast.stmt | None = None
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.lineno <= mutant.line < node.body[0].lineno:
                yield from range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)
                return
        elif (
            isinstance(node, ast.stmt)
            and not isinstance(node, ast.ClassDef)
            and node.lineno <= mutant.line <= (node.end_lineno or node.lineno)
            and (best is None or node.lineno >= best.lineno)
        ):
            best = node
    if best is not None:
        yield from range(best.lineno, (best.end_lineno or best.lineno) + 1)
    # The line is newer than the map, or its statement began elsewhere: the tests of its function's body (the `def`
    # itself is executed by the test that imported the module).
    functions = [node for node in ast.walk(ast.parse(source)) if _holds(node, mutant.line)]
    for node in functions[-1:]:
        yield from range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1)


def _at_module_level(mutant: Mutant, source: str) -> bool:
    return not any(_holds(node, mutant.line) for node in ast.walk(ast.parse(source)))


def _holds(node: ast.AST, line: int) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Whether the line is one of a function."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def map_tests(paths: Sequence[str] = ()) -> None:
    """Run the in-process tests, recording which lines each executes: all of them anew, or add those of some paths."""
    WORK.mkdir(exist_ok=True)
    if not paths:
        MAP.unlink(missing_ok=True)
        DURATIONS.unlink(missing_ok=True)
    environment = os.environ | {plugin.MAP: str(MAP)}
    folders = paths or [f"tests/{name}" for name in IN_PROCESS]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.mutants.plugin", "-p", "no:cacheprovider"]
    subprocess.run([*command, *folders], cwd=ROOT, env=environment, check=False)


def draw(seed: int, count: int, only: Sequence[str] = ()) -> list[Mutant]:
    """The mutants of a seed: a sample without repetition over all mutants of the chosen modules."""
    paths = sorted({path for pattern in (only or MATTER) for path in SOURCES.glob(pattern)})
    sources = {
        path.relative_to(SOURCES).as_posix(): path.read_text(encoding="utf-8")
        for path in paths
        if path.name != "__init__.py"
    }
    every = [mutant for path, source in sources.items() for mutant in mutants_of(path, source)]
    random.Random(seed).shuffle(every)
    return list(islice((mutant for mutant in every if compiles(mutant, sources[mutant.path])), count))


def equivalents() -> set[tuple[str, str, str, str]]:
    """What `equivalent.toml` lists: path, line of code, operator and the text after the change."""
    if not EQUIVALENT.exists():
        return set()
    listed = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8")).get("mutant", [])
    return {(entry["path"], entry["line"], entry["operator"], entry["after"]) for entry in listed}


def identity(mutant: Mutant, source: str) -> tuple[str, str, str, str]:
    """What an entry of `equivalent.toml` names: it outlives a move of the line within its file."""
    return mutant.path, source.splitlines()[mutant.line - 1].strip(), mutant.operator, mutant.after


def judge(mutant: Mutant, coverage: Coverage, known: set[tuple[str, str, str, str]]) -> Verdict:
    """Run the tests of one mutant until one fails."""
    path = SOURCES / mutant.path
    source = path.read_text(encoding="utf-8")
    if identity(mutant, source) in known:
        return Verdict(mutant, "equivalent")
    tests = coverage.tests_of(mutant, source)
    if not tests:
        return Verdict(mutant, "unreached")
    module = "narthex." + mutant.path.removesuffix(".py").replace("/", ".")
    with tempfile.TemporaryDirectory(prefix="narthex-mutant-") as directory:
        told = Path(directory) / "mutant.json"
        told.write_text(
            json.dumps({"module": module, "path": str(path), "source": mutant.applied(source)}),
            encoding="utf-8",
        )
        for batch in (tests[:FIRST], tests[FIRST:]):
            outcome, by = _judge(batch, told, coverage)
            if outcome != "survived":
                return Verdict(mutant, outcome, by)
    return Verdict(mutant, "survived")


def _judge(tests: Sequence[str], told: Path, coverage: Coverage) -> tuple[str, str]:
    """As `run_tests`; a test that fails without the mutant as well is left out, a time-out must repeat itself."""
    if not tests:
        return "survived", ""
    timeout_s = 3 * sum(coverage.durations[test] for test in tests) + SLACK_S
    outcome, by = run_tests(tests, told, timeout_s)
    if outcome == "timeout":
        return run_tests(tests, told, 2 * timeout_s)
    failed = by.removeprefix("FAILED ").removeprefix("ERROR ").partition(" - ")[0]
    if outcome == "killed" and failed in tests and not _passes_unchanged(failed):
        return _judge([test for test in tests if test != failed], told, coverage)
    return outcome, by


@cache
def _passes_unchanged(test: str) -> bool:
    """Whether a test passes in a process of the same kind without a mutant."""
    with tempfile.TemporaryDirectory(prefix="narthex-unchanged-") as directory:
        told = Path(directory) / "mutant.json"
        told.write_text("{}", encoding="utf-8")
        return run_tests([test], told, SLACK_S + 3 * MOST_S)[0] == "survived"


def _earlier(results: Path | None) -> list[Verdict]:
    """What a file of results holds; a last line that was cut off is passed over."""
    found = []
    if results is not None and results.exists():
        for line in results.read_text(encoding="utf-8").splitlines():
            with suppress(json.JSONDecodeError):
                *mutant, outcome, by = json.loads(line)
                found.append(Verdict(Mutant(*mutant), outcome, by))
    return found


def run_tests(tests: Sequence[str], told: Path, timeout_s: float) -> tuple[str, str]:
    """One pytest over some tests; the outcome, and the first line that says why."""
    output = told.with_suffix(".txt")
    process = FORKS.Process(target=child.run_tests, args=(list(tests), str(told), str(output)))
    process.start()
    process.join(timeout_s)
    hanging = process.is_alive()
    with suppress(ProcessLookupError):  # servers that a test started end with it
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()
    if hanging:
        return "timeout", f"after {timeout_s:.0f} s"
    if process.exitcode == 0:
        return "survived", ""
    text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return "killed", failed[0] if failed else f"exit {process.exitcode}"


def run(mutants: Sequence[Mutant], workers: int, results: Path | None = None) -> list[Verdict]:
    """Judge all, with progress; the verdicts in the order in which they were reached.

    `results` is a file to which each verdict is appended, and whose verdicts are not reached again: a run that was
    cut short goes on where it stopped.
    """
    coverage, known = Coverage.load(), equivalents()
    verdicts = [verdict for verdict in _earlier(results) if verdict.mutant in mutants]
    judged = {verdict.mutant for verdict in verdicts}
    mutants = [mutant for mutant in mutants if mutant not in judged]
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        waiting = [pool.submit(judge, mutant, coverage, known) for mutant in mutants]
        for number, done in enumerate(as_completed(waiting), start=1):
            verdict = done.result()
            verdicts.append(verdict)
            if results is not None:
                with results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([*verdict.mutant, verdict.outcome, verdict.by]) + "\n")
            unnoticed = sum(1 for it in verdicts if not it.noticed and it.outcome != "equivalent")
            if not verdict.noticed:
                print(f"{verdict.outcome}: {verdict.mutant}", flush=True)
            if number % 10 == 0:
                spent = time.monotonic() - began
                left = spent / number * (len(mutants) - number)
                print(
                    f"-- {number} of {len(mutants)}, {unnoticed} unnoticed, {spent:.0f} s, "
                    f"about {left:.0f} s left",
                    flush=True,
                )
    return verdicts
