"""The wall clock of one process, which a campaign sets: libfaketime in front of the program, and the file that it
reads.

Not here: the campaigns. Rules: only the wall clock moves; monotonic clocks, and with them every wait, stay true.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

LIBRARIES: Final = tuple(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def library() -> Path:
    """libfaketime; where it is not installed the test is skipped, and fails in CI."""
    if not LIBRARIES:
        if os.environ.get("CI"):
            raise RuntimeError("libfaketime is missing: apt-get install libfaketime")
        pytest.skip("libfaketime is not installed")
    return LIBRARIES[0]


class WallClock:
    """See the module; the file is `path`."""

    def __init__(self, path: Path, ahead_s: float = 0.0) -> None:
        self._path = path
        self.env: dict[str, str] = {
            "LD_PRELOAD": str(library()),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.set(ahead_s)

    def set(self, ahead_s: float) -> None:
        """From now on the process's wall clock is this far ahead of the true time."""
        self.ahead_s = ahead_s
        beside = self._path.with_suffix(".new")
        beside.write_text(f"{ahead_s:+.3f}s\n")
        beside.replace(self._path)  # never a half-written file
