"""Makes a Python look like one on another Unix: names that only Linux has are gone, and so are its virtual files.

`sitecustomize.py` of the child processes of `test_elsewhere`. It does not set `sys.platform`, because the standard
library would then load macOS's own modules. Not here: what macOS has and Linux has not (kqueue).
"""

from __future__ import annotations

import builtins
import io
import os
import resource
import select
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

GONE: dict[Any, tuple[str, ...]] = {
    os: (
        "copy_file_range", "eventfd", "eventfd_read", "eventfd_write", "getrandom", "memfd_create", "pidfd_open",
        "posix_fadvise", "posix_fallocate", "sched_getaffinity", "sched_setaffinity", "setns", "splice", "unshare",
    ),
    resource: ("prlimit",),
    select: tuple(name for name in dir(select) if name.lower().startswith("epoll")),
    signal: ("SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGPOLL", "SIGSTKFLT", "sigtimedwait"),
    socket: (
        "TCP_CORK", "TCP_DEFER_ACCEPT", "TCP_INFO", "TCP_KEEPIDLE", "TCP_LINGER2", "TCP_QUICKACK", "TCP_SYNCNT",
        "TCP_USER_TIMEOUT", "SO_BINDTODEVICE", "SO_DOMAIN", "SO_INCOMING_CPU", "SO_MARK", "SO_PASSCRED", "SO_PEERCRED",
        "SO_PRIORITY", "SO_PROTOCOL", "SOCK_CLOEXEC", "SOCK_NONBLOCK", "AF_NETLINK", "AF_ALG", "AF_VSOCK",
    ),
}  # fmt: skip


def take_away() -> None:
    """Do it, once, before anything else is imported."""
    selectors.DefaultSelector = selectors.PollSelector  # type: ignore[misc,assignment]  # as where there is no epoll
    for module, names in GONE.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    there = builtins.open

    def elsewhere(file: Any, *words: Any, **named: Any) -> Any:
        asker = sys._getframe(1).f_globals.get("__name__", "")
        if asker.startswith("psutil"):  # which has a module of its own for each system
            return there(file, *words, **named)
        if isinstance(file, str | bytes | Path) and os.fsdecode(file).startswith(("/proc", "/sys")):
            raise FileNotFoundError(2, "No such file or directory", os.fsdecode(file))
        return there(file, *words, **named)

    builtins.open = io.open = elsewhere


take_away()
