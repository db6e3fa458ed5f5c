"""The one check command: `python -m tests.check` runs format, lint, types, imports, docs, pages and tests.

Not here: installing anything (`.ci/run`, README). Rules: every step runs, also when one before it failed, so that one
round shows everything; pytest comes last and closes the output; the exit code is 1 when any step failed.

    python -m tests.check                # everything
    python -m tests.check --no-tests     # what takes seconds
    python -m tests.check --write-docs   # bring the generated pages up to date
    python -m tests.check --docs         # build the documentation site strictly into site/, with pictures taken now
    python -m tests.check --docs-versions  # the same of every release, beside each other, with a switcher
    python -m tests.check --pictures     # take the pictures of docs/images anew
    python -m tests.check tests/domain   # with other arguments: they go to pytest
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from tools.docs_build import build_site, build_versions

from tests.generated import ROOT, stale, write

PYTHON: Final = sys.executable
STEPS: Final[tuple[tuple[str, Sequence[str]], ...]] = (
    ("format", (PYTHON, "-m", "ruff", "format", "--check", ".")),
    ("lint", (PYTHON, "-m", "ruff", "check", ".")),
    ("types", (PYTHON, "-m", "mypy", "src", "tests")),
    ("imports", (PYTHON, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")),
)
WHOLE_SUITE: Final = ("-n", "2", "--dist", "loadfile")
"""Two processes, which wait for programs half of the time; a test that measures runs alone (`tests/alone.py`)."""


def main(arguments: Sequence[str]) -> int:
    """Run the steps; the exit code."""
    words = list(arguments)
    if "--write-docs" in words:
        for page in write():
            print(f"written: {page}")
        return 0
    if "--pictures" in words:
        return 0 if _step("pictures", _renew_pictures) else 1
    if "--docs" in words or "--docs-versions" in words:
        build = build_versions if "--docs-versions" in words else partial(build_site, ROOT)
        return 0 if all([_step("docs", _docs), _step("site", partial(_site, build))]) else 1
    with_tests = "--no-tests" not in words
    words = [word for word in words if word != "--no-tests"]
    failed = [name for name, command in STEPS if not _step(name, partial(_run, command))]
    failed += [name for name, run in (("docs", _docs), ("pages", _pages)) if not _step(name, run)]
    if failed:
        print(f"failed: {', '.join(failed)}", flush=True)
    if with_tests and not _run((PYTHON, "-m", "pytest", *(words or WHOLE_SUITE))):
        failed.append("tests")
    return 1 if failed else 0


def _step(name: str, run: Callable[[], bool]) -> bool:
    began = time.monotonic()
    print(f"== {name}", flush=True)
    good = run()
    print(f"== {name}: {'ok' if good else 'FAILED'} ({time.monotonic() - began:.1f} s)", flush=True)
    return good


def _run(command: Sequence[str]) -> bool:
    return subprocess.run(command, check=False).returncode == 0


def _docs() -> bool:
    pages = stale()
    for page in pages:
        print(f"{page} is not what the code says. Run: python -m tests.check --write-docs")
    return not pages


def _site(build: Callable[..., bool]) -> bool:
    """Build into site/ with pictures taken now; without Chromium with those of docs/images."""
    from tests.docs.pictures import taken

    with taken() as pictures:
        if pictures is None:
            print("docs/images is used as it is: there is no chromium to take the pictures anew")
        return build(ROOT / "site", pictures=pictures)


def _renew_pictures() -> bool:
    from tests.docs.pictures import renew

    for name in renew():
        print(f"taken: docs/images/{name}")
    return True


def _pages() -> bool:
    """Types and tests of web/, where Node and its packages are (`pip install -e .` brings the packages)."""
    npm = shutil.which("npm")
    if npm is None or not (ROOT / "web" / "node_modules").is_dir():
        print("not checked: there is no npm, or web/node_modules is not installed")
        return os.environ.get("CI", "").lower() not in ("1", "true")
    if not _installed(ROOT / "web"):  # the lock file is newer: a pull brought another library
        print("web/package-lock.json names other packages than are installed: npm ci")
        if not _quietly((npm, "--prefix", str(ROOT / "web"), "ci", "--ignore-scripts")):
            return False
    tasks = ("check", "test")
    return all(_quietly((npm, "--prefix", str(ROOT / "web"), "run", "--silent", task)) for task in tasks)


def _installed(web: Path) -> bool:
    """Whether web/node_modules has the versions that the lock file names (npm notes there what it installed)."""
    try:
        wanted, there = (
            json.loads(path.read_text())["packages"]
            for path in (web / "package-lock.json", web / "node_modules" / ".package-lock.json")
        )
    except (OSError, ValueError, KeyError):
        return False
    return all(
        there.get(name, {}).get("version") == package.get("version")
        for name, package in wanted.items()
        if name.startswith("node_modules/") and not package.get("optional")
    )


def _quietly(command: Sequence[str]) -> bool:
    """Show the output only when it failed: a line for each of a hundred good tests hides the others."""
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        print(done.stdout.decode(errors="replace"), flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
