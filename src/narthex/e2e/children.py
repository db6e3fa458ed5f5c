"""A child process that serves on loopback: started within a bound, ended by its own pid, started again on its port.

Not here: the programs that are started (`engines`, `staging`). Rules: every wait has a deadline; a child that does
not come up is a DependencyError with the end of its own output; the code that started a child ends it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from narthex.errors import DependencyError
from narthex.extras import program_path

START_S: Final = 40.0  # PostgreSQL on a busy machine of two cores took 9
STOP_S: Final = 12.0  # a gateway drains for up to 10 s
POLL_S: Final = 0.03
TAIL: Final = 1_500  # characters of a child's own output in an error
OWN_PREFIX: Final = "NARTHEX_"
POLICY: Final = frozenset(
    {
        "ENVIRONMENT", "PORT", "K_SERVICE", "KUBERNETES_SERVICE_HOST", "E2E_TESTING", "PYTEST_RUNNING",
        "STAGING_E2E_TEST", "E2E_OAUTH_SIMULATION_KEY", "E2E_TEST_ENV",
    }
)  # fmt: skip
"""Variables that decide policy: a child gets those that it is given and none of the tester's own environment."""


def free_port() -> int:
    """A TCP port of loopback on which no process listens at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def program(name: str, remedy: str) -> str:
    """A program beside this Python, or on the path. Raises DependencyError with `remedy`."""
    found = program_path(name)
    if found is None:
        raise DependencyError(name, f"{name} is not installed, and the local staging needs it.", remedy)
    return found


def clean_environment(given: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without anything that decides policy, plus `given`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in POLICY and not name.startswith(OWN_PREFIX) and not name.startswith("PYTEST")
    }
    return kept | dict(given)


class Child:
    """A process that listens on `port`, through any number of lives.

    Args:
        name: for messages and the name of its log.
        directory: the directory of its log.
        command: the command line.
        port: the port that it listens on.
        environ: for `clean_environment`.
        user: the user id to run as; None: this one.
        ready: whether the program does its work; by default, whether its port takes connections.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        command: list[str],
        port: int,
        *,
        environ: Mapping[str, str] | None = None,
        user: int | None = None,
        ready: Callable[[], bool] | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.log = directory / f"{name}.log"
        self._command = command
        self._environ = dict(environ or {})
        self._user = user
        self._ready = ready or self.listens
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running child; 0 when it does not run."""
        return self._process.pid if self._process is not None else 0

    def spawn(self) -> None:
        """Start without waiting."""
        with self.log.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603 - the command is built here, without a shell
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=clean_environment(self._environ),
                cwd=self.log.parent,
                user=self._user,
                start_new_session=True,  # Ctrl-C reaches the runner, which ends its children in order
            )

    async def start(self) -> None:
        """Start and wait until it is ready. Raises DependencyError."""
        self.spawn()
        await self.up()

    async def up(self) -> None:
        """Wait until it is ready. Raises DependencyError."""
        ends_at = time.monotonic() + START_S
        while not await asyncio.to_thread(self._ready):
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > ends_at:
                said = self.words()[-TAIL:]
                self.kill()
                how = "exited immediately" if ended else f"was not ready within {START_S:g} s"
                raise DependencyError(self.name, f"{self.name} {how}: {said}", "Check its output above.")
            await asyncio.sleep(POLL_S)

    def listens(self) -> bool:
        """Whether its port takes connections."""
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def words(self) -> str:
        """All output of the child, over all its starts."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not enough within the bound."""
        self.terminate()
        if self._process is None:
            return
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait(STOP_S)
