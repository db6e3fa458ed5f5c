"""What names this boot of this machine, and a clock that no step of the wall's moves.

Commits that were not synced live exactly as long as a boot does.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import psutil

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """An id that changes with every boot of the machine, and only then."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:  # not Linux: minutes, because the derived boot time wavers by seconds
        return f"boot-{int(psutil.boot_time()) // 60}"


_WALL_AHEAD_S: Final = time.time() - time.monotonic()


def steady_time() -> float:
    """Seconds since the epoch by the wall clock as it was when this process began, and the time that has passed since.

    For what compares moments of this process's life: a step of the wall clock, either way, is not in it.
    """
    return _WALL_AHEAD_S + time.monotonic()
