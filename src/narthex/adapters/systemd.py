"""systemd's protocols: `sd_notify(3)` for readiness, watchdog and stop; `sd_listen_fds(3)` for an inherited socket.

Not here: when a process is ready or drains (`wiring.server_process`, `wiring.supervisor`). Rules: without systemd's
variables nothing happens; they are taken out of the environment, so that no child notifies systemd for this process; a
datagram that cannot be sent is dropped, because the process serves all the same.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping, MutableMapping
from typing import Final

from narthex.errors import ConfigError

FIRST_DESCRIPTOR: Final = 3  # SD_LISTEN_FDS_START
VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class SystemdNotifier:
    """Tells systemd the state of this process. `address`: of its socket; empty: there is none.

    Attributes:
        watchdog_s: seconds after which systemd kills a process that has not called `alive`; 0: it does not watch.
    """

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        # `@name` is a socket without a file (unix(7), abstract).
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s if address else 0.0

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> SystemdNotifier:
        """The notifier that systemd's variables describe; they are removed."""
        address, interval, pid = (environ.pop(name, "") for name in VARIABLES)
        watched = interval.isdigit() and pid in ("", str(os.getpid()))
        return cls(address, int(interval) / 1e6 if watched else 0.0)

    def ready(self) -> None:
        """The process serves: units that wait for it may start."""
        self._send("READY=1\nSTATUS=Serving")

    def stopping(self) -> None:
        """The drain has begun."""
        self._send("STOPPING=1\nSTATUS=Draining")

    def alive(self) -> None:
        """The event loop runs; call it at least every `watchdog_s / 2`."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode(), self._address)


def activated_descriptor(environ: Mapping[str, str]) -> int | None:
    """The socket that systemd opened for this process; None: it opened none.

    Raises:
        ConfigError: it opened several.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):  # a parent's, or none
        return None
    count = environ.get("LISTEN_FDS", "0")
    if count != "1":
        raise ConfigError(
            [
                f"systemd passes {count[:10]} sockets, and narthex takes one. Keep one ListenStream= in the unit."
            ]
        )
    return FIRST_DESCRIPTOR
