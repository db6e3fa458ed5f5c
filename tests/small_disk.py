"""A disk of a few MiB: a tmpfs over a directory, which a test fills and empties again.

Rules: needs root and `mount`; where they are not, the test is skipped and says so; it is unmounted at the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.services import missing


class SmallDisk:
    """`directory` is the disk's only one; the program under test keeps its data in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / "filler"

    def fill(self, left: int = 0) -> None:
        """Let another file take all room except `left` bytes."""
        found = os.statvfs(self.directory)
        with self._filler.open("ab") as filler, contextlib.suppress(OSError):
            filler.write(bytes(max(0, found.f_bavail * found.f_frsize - left)))

    def free(self) -> None:
        """Free the room again."""
        self._filler.unlink()


@contextlib.contextmanager
def small_disk(directory: Path, mib: int, owner: int | None = None) -> Iterator[SmallDisk]:
    """A disk of `mib` MiB at `directory`, which is made; `owner` is the user whom it belongs to."""
    if shutil.which("mount") is None or os.geteuid() != 0:
        missing("mount", "run as root: a small disk is a tmpfs of its own")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0755", "tmpfs", str(directory)],
            check=True,
            capture_output=True,
        )
    except subprocess.CalledProcessError:
        missing("mount", "this container may not mount a tmpfs (CAP_SYS_ADMIN)")
    try:
        if owner is not None:
            os.chown(directory, owner, -1)
        yield SmallDisk(directory)
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True, capture_output=True)
