"""The TypeScript of the pages and of the client helper: strict types, and its own tests on node's runner."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "web"
TIMEOUT_S = 110


def npm(script: str) -> subprocess.CompletedProcess[str]:
    """`npm run …` in web/, as a developer would."""
    program = shutil.which("npm")
    assert program is not None, "install Node and npm (Debian: apt-get install nodejs npm)"
    assert (WEB / "node_modules").is_dir(), "run `npm ci` in web/ (or `pip install -e .`)"
    return subprocess.run(
        [program, "run", "--silent", script],
        cwd=WEB,
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.timeout(120)
def test_types_hold() -> None:
    """`npm run check`: tsc, strict, over pages, helper and their tests."""
    done = npm("check")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.timeout(120)
def test_its_own_tests_pass() -> None:
    """`npm test`: none fails, none is skipped, and they were found."""
    done = npm("test")
    counts = {
        name: int(found)
        for name, found in re.findall(r"^[#ℹ] (pass|fail|skipped|todo) (\d+)$", done.stdout, re.MULTILINE)
    }
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert counts["fail"] == counts["skipped"] == counts["todo"] == 0
    assert counts["pass"] >= 80


@pytest.mark.parametrize("folder", [".", "test/kits/assistant-ui", "test/kits/copilotkit"])
def test_lock_file_names_no_registry_and_pins_all(folder: str) -> None:
    """Every developer uses their own registry; every version is exact and has a hash."""
    lock = json.loads((WEB / folder / "package-lock.json").read_text())
    for name, package in lock["packages"].items():
        assert "resolved" not in package, name
        if name:
            assert package["integrity"].startswith("sha512-"), name
    manifest = json.loads((WEB / folder / "package.json").read_text())
    for version in {**manifest["dependencies"], **manifest.get("devDependencies", {})}.values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version), version
