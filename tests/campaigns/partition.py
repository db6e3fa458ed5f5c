"""A cable to a network namespace, which can be cut: packets vanish, no connection is closed.

Rules: needs root and `ip`; where they are missing, the test is skipped with that reason; the namespace is removed at
the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from typing import TypeVar

from tests.services import Server, missing

S = TypeVar("S", bound=Server)


class Cable:
    """A pair of addresses: `ours`, and `theirs` inside the namespace."""

    def __init__(self, namespace: str, ours: str, theirs: str) -> None:
        self._namespace = namespace
        self.ours = ours
        self.theirs = theirs

    def behind(self, server: S) -> S:
        """Run a server inside the namespace; call this before its first start."""
        server.host = self.theirs
        server.through = ("ip", "netns", "exec", self._namespace)
        return server

    def cut(self) -> None:
        """From now on packets are lost."""
        _ip("-n", self._namespace, "link", "set", "inner", "down")

    def mend(self) -> None:
        """Packets arrive again."""
        _ip("-n", self._namespace, "link", "set", "inner", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def cable() -> Iterator[Cable]:
    """A namespace and the cable to it, removed at the end; servers in it are stopped before."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        missing("ip netns", "run as root with iproute2: a partition needs a network namespace")
    name = f"nx{secrets.token_hex(3)}"
    net = f"10.223.{secrets.randbelow(250) + 1}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError:
        missing("ip netns", "this container may not make network namespaces (CAP_SYS_ADMIN)")
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "inner", "netns", name)
        _ip("addr", "add", f"{net}.1/30", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "addr", "add", f"{net}.2/30", "dev", "inner")
        _ip("-n", name, "link", "set", "inner", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        yield Cable(name, f"{net}.1", f"{net}.2")
    finally:
        _ip("netns", "delete", name)
