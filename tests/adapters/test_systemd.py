"""systemd's variables and datagrams; the real program under them: tests/acceptance/test_systemd.py."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from narthex.adapters.systemd import SystemdNotifier, activated_descriptor
from narthex.errors import ConfigError


def received(server: socket.socket) -> str:
    """The next datagram."""
    server.settimeout(5)
    return server.recv(1000).decode()


@pytest.mark.parametrize("abstract", [False, True])
def test_states_reach_systemd(abstract: bool, tmp_path: Path) -> None:
    """By a socket with a file, and by one without (`@name`)."""
    name = f"@narthex-{os.getpid()}-{os.urandom(4).hex()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name[1:] if abstract else name)
        notifier = SystemdNotifier.take({"NOTIFY_SOCKET": name})
        notifier.ready()
        assert received(server).splitlines()[0] == "READY=1"
        notifier.alive()
        assert received(server) == "WATCHDOG=1"
        notifier.stopping()
        assert received(server).splitlines()[0] == "STOPPING=1"


def test_the_variables_are_taken() -> None:
    """A child that inherited them would speak for this process, or keep its watchdog quiet."""
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "A": "b"}
    assert SystemdNotifier.take(environ).watchdog_s == 3.0
    assert environ == {"A": "b"}


@pytest.mark.parametrize(
    "environ",
    [
        {"WATCHDOG_USEC": "3000000"},
        {"NOTIFY_SOCKET": "/x"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
    ],
)
def test_nothing_watches(environ: dict[str, str]) -> None:
    """Without a socket, an interval, or for another process there is no watchdog."""
    assert SystemdNotifier.take(environ).watchdog_s == 0.0


def test_a_socket_that_is_gone_harms_nothing(tmp_path: Path) -> None:
    """The process serves whether systemd listens or not."""
    SystemdNotifier(str(tmp_path / "nowhere")).ready()
    SystemdNotifier().ready()


def test_the_socket_of_a_unit_is_descriptor_3() -> None:
    """For this process only; several are refused with the remedy."""
    mine = {"LISTEN_PID": str(os.getpid())}
    assert activated_descriptor(mine | {"LISTEN_FDS": "1"}) == 3
    assert activated_descriptor({"LISTEN_PID": "1", "LISTEN_FDS": "1"}) is None
    assert activated_descriptor({}) is None
    with pytest.raises(ConfigError, match="passes 2 sockets"):
        activated_descriptor(mine | {"LISTEN_FDS": "2"})
