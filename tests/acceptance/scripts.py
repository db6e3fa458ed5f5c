"""Scripts for Node, run beside the tests: unmodified JavaScript clients against the real program."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.timing import within

WEB = Path(__file__).parents[2] / "web"
LINE_BYTES = 2**22  # of a script's output: a whole run's events


def node_with(package: str) -> str:
    """The path of Node, if it finds `package` in web/. Skips the test where either is missing; in CI that fails."""
    found = shutil.which("node")
    if found and (WEB / "node_modules" / package).is_dir():
        return found
    missing = (
        f"web/node_modules has no {package} (pip install -e . brings it)" if found else "there is no node"
    )
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


@contextlib.asynccontextmanager
async def script(
    node: str, path: Path, *arguments: str, stderr: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A script with its pipes; the script ends when its input ends."""
    process = await asyncio.create_subprocess_exec(
        node,
        str(path),
        *arguments,
        cwd=WEB,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
        limit=LINE_BYTES,
    )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), within(5))
        except TimeoutError:
            process.kill()
            await process.wait()
