"""Tests that measure have no other test beside them in a run of several processes."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Final

from tests.timing import within

ROOT: Final = Path(__file__).parent.parent
CONFTEST: Final = """
from tests import alone

def pytest_configure(config):
    config.addinivalue_line("markers", "alone: runs with nothing beside it")
    alone.install(config)
"""
MODULE: Final = """
import time
from pathlib import Path
import pytest

def _note(name):
    began = time.monotonic()
    time.sleep(0.02)  # long enough for a test of the other process to begin meanwhile
    with Path("moments.txt").open("a") as file:
        file.write(f"{began} {time.monotonic()} {name}\\n")

@pytest.mark.parametrize("number", range(12))
def test_ordinary(number):
    _note("ordinary")

@pytest.mark.alone
@pytest.mark.parametrize("number", range(4))
def test_measuring(number):
    _note("alone")
"""


def _moments(directory: Path) -> list[tuple[float, float, str]]:
    (directory / "conftest.py").write_text(CONFTEST)
    for name in ("test_one.py", "test_two.py"):
        (directory / name).write_text(MODULE)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        command,
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=within(60),
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in (directory / "moments.txt").read_text().splitlines()]
    return sorted((float(began), float(ended), name) for began, ended, name in lines)


def test_a_measuring_test_overlaps_with_no_other(tmp_path: Path) -> None:
    """Ordinary tests overlap, and no test begins while a measuring one runs."""
    moments = _moments(tmp_path)
    assert len(moments) == 32
    overlaps = [(one[2], two[2]) for one, two in pairwise(moments) if two[0] < one[1]]
    assert overlaps
    assert set(overlaps) == {("ordinary", "ordinary")}
