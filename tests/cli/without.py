"""narthex as it runs where packages are missing: a child process whose Python does not find them.

Not here: the expected output. Rule: the import system itself behaves as on such a machine (`find_spec` returns None),
so that narthex cannot notice the difference.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.acceptance.program import clean_environment

HIDING = """
import importlib.machinery, os, sys

hidden = set(os.environ["TEST_HIDDEN"].split(","))


class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if hidden & {name, name.partition(".")[0]}:
            return None
        return super().find_spec(name, path, target)


sys.meta_path[:] = [Finder if one is importlib.machinery.PathFinder else one for one in sys.meta_path]
"""


def without(
    packages: str, folder: Path, *words: str, env: Mapping[str, str] | None = None, timeout_s: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run a narthex command in `folder`, where `packages` (import names, by commas) are not installed."""
    site = folder / "hiding"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(HIDING)
    environ = clean_environment(env or {}) | {"PYTHONPATH": str(site), "TEST_HIDDEN": packages}
    return subprocess.run(
        [sys.executable, "-m", "narthex", *words],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env=environ,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        check=False,
    )
