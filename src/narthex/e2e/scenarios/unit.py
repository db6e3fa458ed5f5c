"""Unit: the checkout's own tests of the pure core, where there is a checkout. The one group without a server."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.skipping import SkipScenario
from narthex.e2e.system_under_test import SystemUnderTest

CORE = ("tests/domain", "tests/protocol")
TAIL = 1_500


def checkout() -> Path | None:
    """The root of the checkout that this narthex runs from, if it does."""
    root = Path(__file__).resolve().parents[4]
    return root if all((root / folder).is_dir() for folder in CORE) else None


@scenario(Category.UNIT, timeout_s=300)
async def the_core(_: SystemUnderTest) -> None:
    """The tests of protocol and domain pass."""
    root = checkout()
    if root is None:
        raise SkipScenario("this narthex has no source checkout")
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CORE]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    process = await asyncio.create_subprocess_exec(
        *words,
        cwd=root,
        env=environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, said.decode(errors="replace")[-TAIL:]
