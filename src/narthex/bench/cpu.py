"""Measures the cost of a process: CPU time by the nanosecond, memory of its own, open-file limits.

Rules: Linux only where it must be (the CPU clock of another process); elsewhere psutil's 10 ms ticks serve. A child
that begins or ends during a measurement counts: its CPU time is its own while it lives, its parent's afterwards.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

import psutil

from narthex.errors import DependencyError

_SCHED_CLOCK: Final = (
    2  # CPUCLOCK_SCHED of linux/posix-timers.h: user and system time by the scheduler's clock
)


class Cpu(NamedTuple):
    """Seconds of CPU that processes have used so far; `user` and `system` are sampled by ticks, `total` is not."""

    total: float
    user: float
    system: float

    def since(self, before: Cpu) -> Cpu:
        """The CPU time used since `before`."""
        return Cpu(self.total - before.total, self.user - before.user, self.system - before.system)


class Memory(NamedTuple):
    """Bytes. `uss` would be freed if the processes ended: user memory of their own."""

    rss: int
    uss: int


def family(pid: int) -> list[int]:
    """A process and its descendants, as they are now."""
    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def used(roots: Sequence[int]) -> Cpu:
    """CPU time of processes and all their descendants until now, those that ended and were waited for among them.

    Two readings can be subtracted, whichever processes began or ended in between. Ended ones count in 10 ms ticks.

    Raises:
        DependencyError: a root has ended: a later reading could not be compared.
    """
    total = user = system = 0.0
    for pid in _families(roots):
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:  # it ended meanwhile; its parent's next reading includes it
            continue
        ended = times.children_user + times.children_system
        user += times.user + times.children_user
        system += times.system + times.children_system
        total += _clock(pid, times.user + times.system) + ended
    return Cpu(total, user, system)


def _families(roots: Sequence[int]) -> list[int]:
    found: dict[int, None] = {}
    for root in roots:
        try:
            found |= dict.fromkeys(family(root))
        except psutil.NoSuchProcess as fault:
            raise DependencyError(
                "server", f"Process {root} ended during the measurement.", "Check its log and repeat it."
            ) from fault
    return list(found)


def _clock(pid: int, ticks: float) -> float:
    if not sys.platform.startswith("linux"):
        return ticks
    try:
        return time.clock_gettime((~pid << 3) | _SCHED_CLOCK)  # clock_getcpuclockid(3)
    except OSError:
        return ticks


def memory(roots: Sequence[int]) -> Memory:
    """Memory of processes and all their descendants, now. Raises DependencyError: as `used`."""
    rss = uss = 0
    for pid in _families(roots):
        try:
            info = psutil.Process(pid).memory_full_info()
        except psutil.NoSuchProcess:
            continue
        rss += info.rss
        uss += info.uss
    return Memory(rss, uss)


def raise_open_files(wanted: int) -> int:
    """Raise the limit of open files of this process (and its children) as far as allowed; returns the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:
        return soft
    target = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, target), hard))
    return max(soft, target)
