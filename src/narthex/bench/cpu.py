"""What a process costs: CPU time by the nanosecond, memory of its own, open-file limits.

Rules: Linux only where it must be (the CPU clock of another process); elsewhere psutil's 10 ms ticks serve.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import psutil

_SCHED_CLOCK: Final = (
    2  # CPUCLOCK_SCHED of linux/posix-timers.h: user and system time by the scheduler's clock
)


class Cpu(NamedTuple):
    """Seconds of CPU that processes have used so far; `user` and `system` are sampled by ticks, `total` is not."""

    total: float
    user: float
    system: float

    def since(self, before: Cpu) -> Cpu:
        """What was used in between."""
        return Cpu(self.total - before.total, self.user - before.user, self.system - before.system)


class Memory(NamedTuple):
    """Bytes. `uss` is what would be freed if the processes ended: user memory of their own."""

    rss: int
    uss: int


def family(pid: int) -> list[int]:
    """A process and its descendants, as they are now."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def used(pids: Sequence[int]) -> Cpu:
    """CPU time of processes until now; ones that ended count as nothing from then on."""
    total = user = system = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
            user += times.user
            system += times.system
            total += _clock(pid, times.user + times.system)
        except psutil.NoSuchProcess:
            continue
    return Cpu(total, user, system)


def _clock(pid: int, ticks: float) -> float:
    if not sys.platform.startswith("linux"):
        return ticks
    try:
        return time.clock_gettime((~pid << 3) | _SCHED_CLOCK)  # clock_getcpuclockid(3)
    except OSError:
        return ticks


def memory(pids: Sequence[int]) -> Memory:
    """Memory of processes, now."""
    rss = uss = 0
    for pid in pids:
        try:
            info = psutil.Process(pid).memory_full_info()
        except psutil.NoSuchProcess:
            continue
        rss += info.rss
        uss += info.uss
    return Memory(rss, uss)


def raise_open_files(wanted: int) -> int:
    """Raise this process's (and its children's) limit of open files as far as it may be; the limit then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, target), hard))
    return max(soft, target)
