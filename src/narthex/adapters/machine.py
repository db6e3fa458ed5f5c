"""What names this boot of this machine. Commits that were not synced live exactly as long as it does."""

from __future__ import annotations

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
