"""A NATS server in a network namespace of its own, which can be cut off: packets vanish, no connection is closed.

Rules: needs root and `ip`; where they are not, the test is skipped and says so; the namespace is removed at the end.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.services import NatsServer, missing


class NatsBehindALink(NatsServer):
    """See the module."""

    def __init__(self, directory: Path, namespace: str, address: str) -> None:
        super().__init__(directory)
        self.namespace = namespace
        self.address = address

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.address}:{self.port}"

    def command(self) -> list[str]:
        words = super().command()
        words[words.index("-a") + 1] = self.address
        return ["ip", "netns", "exec", self.namespace, *words]

    def answers(self) -> bool:
        """Whether it takes connections."""
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex((self.address, self.port)) == 0

    def cut(self) -> None:
        """From now on packets vanish."""
        _ip("-n", self.namespace, "link", "set", "inner", "down")

    def mend(self) -> None:
        """They arrive again."""
        _ip("-n", self.namespace, "link", "set", "inner", "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def behind_a_link(directory: Path) -> Iterator[NatsBehindALink]:
    """A started server behind a link; everything is removed at the end."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        missing("ip netns", "run as root with iproute2: a partition needs a network namespace")
    name = f"nx{secrets.token_hex(3)}"
    net = f"10.223.{secrets.randbelow(250) + 1}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError:
        missing("ip netns", "this container may not make network namespaces (CAP_SYS_ADMIN)")
    server = NatsBehindALink(directory / "js", name, f"{net}.2")
    try:
        _ip("link", "add", name, "type", "veth", "peer", "name", "inner", "netns", name)
        _ip("addr", "add", f"{net}.1/30", "dev", name)
        _ip("link", "set", name, "up")
        _ip("-n", name, "addr", "add", f"{net}.2/30", "dev", "inner")
        _ip("-n", name, "link", "set", "inner", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        server.start()
        yield server
    finally:
        server.kill()
        _ip("netns", "delete", name)
