"""Lets `/metrics` of any of several processes on one port report the numbers of all.

Not here: counting (`metrics.py`). Rules: imports no prometheus-client, which looks at the environment once, at its
own import; the parent prepares, each child inherits the variable, the parent reports the dead.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


def prepare(directory: Path) -> None:
    """Empty `directory` and name it to prometheus-client. Call in the parent before its first child starts."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for left in directory.glob("*.db"):
        left.unlink(missing_ok=True)
    os.environ[VARIABLE] = str(directory)


def mark_dead(pid: int) -> None:
    """Take a dead child's gauges out of the sum."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
