"""This machine and process: the boot's id, a clock that no step of the wall clock moves, the limit of open files,
the heaps of the C library.

Rules: commits that were not synced live exactly as long as a boot does; the limit of open files and the number of heaps
are the program's business, set once at its start, and a program that embeds the gateway keeps its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import resource
import time
from pathlib import Path
from typing import Final

import psutil

UNLIMITED: Final = (
    1 << 20
)  # what is counted with where there is no limit: Linux's own default for `fs.nr_open`
M_ARENA_MAX: Final = -8  # glibc's malloc.h
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


def descriptor_limit() -> int:
    """The soft limit of open files."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def descriptors_to_come() -> int:
    """What `raise_descriptor_limit` would come to."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if hard == resource.RLIM_INFINITY else hard


def raise_descriptor_limit() -> int:
    """Raise the soft limit to the hard one, as far as the system lets us; the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # macOS says infinity and takes less
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptor_limit()


def share_one_heap() -> None:
    """Let all threads allocate from one heap; call it before the first thread starts. Does nothing without glibc.

    glibc gives each thread of SQLite a heap of its own. What one thread allocates and another frees leaves holes that
    no other thread can use: under churn 9 MiB after six minutes, and rising. One heap had 0.3 MiB of holes where
    several had 1.7, at equal CPU (the interpreter lock lets one thread at a time do most of the work anyway).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 1)
