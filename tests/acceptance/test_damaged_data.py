"""A damaged data file ends the start with the remedy, without endless retries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.program import clean_environment, running
from tests.timing import within

pytestmark = pytest.mark.acceptance


def serve(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `narthex serve` on a folder whose name a shell would split, until it exits."""
    return subprocess.run(
        [sys.executable, "-m", "narthex", "serve", "--port", "0", "--data-dir", str(folder / "data")],
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean_environment({}),
        timeout=within(40),
        check=False,
    )


@pytest.mark.parametrize("name", ["log.db", "narthex.db"])
@pytest.mark.parametrize("damage", ["header", "pages"])
async def test_a_damaged_file_ends_the_start(name: str, damage: str, tmp_path: Path) -> None:
    """A file of another kind, or broken behind a valid header: the error names the file and the remedy."""
    folder = tmp_path / "it's here"
    folder.mkdir()
    async with running(folder):
        pass
    file = folder / "data" / name
    whole = file.read_bytes()
    file.write_bytes(b"\x17" * 4096 if damage == "header" else whole[:100] + b"\x17" * (len(whole) - 100))
    done = serve(folder)
    assert done.returncode == 78, done.stderr
    (error, remedy) = done.stderr.splitlines()[-2:]
    assert error.startswith(f"error: {file} is damaged (SQLITE_")
    assert "restore the file from a backup" in remedy
    assert f"""mv '{folder}/data/{name}'""".replace("it's", "it'\"'\"'s") in remedy
    assert file.exists()
