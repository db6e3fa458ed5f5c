"""The real program as a child process: started, queried, killed, restarted on the same data.

Not here: clients. Rules: every process that is started is ended by its pid; a wait is for an event (a port that
answers, a line in the log), never for luck.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx2

from narthex.e2e.children import free_port
from tests.services import missing
from tests.timing import within

READY_WITHIN_S: Final = within(20)
POLICY_VARIABLES: Final = (
    "ENVIRONMENT",
    "E2E_TESTING",
    "PYTEST_RUNNING",
    "STAGING_E2E_TEST",
    "E2E_OAUTH_SIMULATION_KEY",
    "E2E_TEST_ENV",
    "K_SERVICE",
    "KUBERNETES_SERVICE_HOST",
    "PORT",
)


def clock_ahead(by: str) -> dict[str, str]:
    """Environment variables that set a process's wall clock ahead, for example by `2h`; its timers are not affected."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not found:
        missing("libfaketime", "apt-get install libfaketime")
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": f"+{by}", "DONT_FAKE_MONOTONIC": "1"}


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without any variable that decides policy, plus `extra`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in (*POLICY_VARIABLES, "PYTHONDONTWRITEBYTECODE") and not name.startswith("NARTHEX_")
    }
    return kept | dict(extra)


class Program:
    """`narthex serve`, or another command, with one data directory and one port, across any number of restarts.

    Attributes:
        log: the output of all its processes, on both streams.
    """

    def __init__(
        self,
        directory: Path,
        env: Mapping[str, str],
        arguments: tuple[str, ...] = (),
        *,
        serving: str = "serve",
    ) -> None:
        self.serving = serving
        self.directory = directory
        self.env = dict(env)
        self.arguments = arguments
        self.port = free_port()
        self.log_file = directory / "narthex.out"
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_after_s = 0.0

    @property
    def http(self) -> str:
        """Base URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws(self) -> str:
        """WebSocket URL."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def log(self) -> str:
        """See the class."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def command(self, *words: str) -> list[str]:
        """A narthex command line on this program's data directory."""
        return [sys.executable, "-m", "narthex", *words]

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start without waiting."""
        with self.log_file.open("ab") as out:
            self.process = subprocess.Popen(
                self.command(
                    *self.serving.split(),
                    "--port",
                    str(self.port),
                    "--data-dir",
                    str(self.directory / "data"),
                    *self.arguments,
                ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=clean_environment(self.env),
                cwd=self.directory,
            )
        return self.process

    async def start(self) -> None:
        """Start and wait until `/readyz` reports ready; `ready_after_s` is how long that took."""
        began = time.monotonic()
        process = self.spawn()
        async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
            while time.monotonic() - began < READY_WITHIN_S:
                if process.poll() is not None:
                    raise AssertionError(
                        f"exit {process.returncode} before it was ready:\n{self.log[-4000:]}"
                    )
                with contextlib.suppress(httpx2.HTTPError):
                    if (await client.get(f"{self.http}/readyz")).status_code == 200:
                        self.ready_after_s = time.monotonic() - began
                        return
                await asyncio.sleep(0.02)
        raise AssertionError(f"not ready within {READY_WITHIN_S} s:\n{self.log[-4000:]}")

    def kill(self) -> None:
        """`kill -9`, without a shutdown."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self, timeout_s: float = 15.0) -> int:
        """Send SIGTERM and wait; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def end(self) -> None:
        """End the process by any means."""
        if self.process is not None and self.process.poll() is None:
            try:
                self.terminate(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def run(
        self, *words: str, timeout_s: float = 30.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run another narthex command to completion, in this program's environment."""
        return subprocess.run(
            self.command(*words),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=clean_environment(self.env if env is None else env),
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def token(self, subject: str, **options: str) -> str:
        """`narthex token` for this data directory."""
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        done = self.run("token", "--data-dir", str(self.directory / "data"), "--sub", subject, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    async def login(self, email: str) -> str:
        """Sign in at the embedded provider; return the access token."""
        answer = await self.post("/auth/login", json={"email": email})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        """GET a path. Plain HTTP, because loading certificates would block the loop for 60 ms per client."""
        async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
            return await client.get(self.http + path, **options)

    async def post(self, path: str, **options: Any) -> httpx2.Response:
        """POST to a path."""
        async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
            return await client.post(self.http + path, **options)


@contextlib.contextmanager
def shared(
    directory: Path, env: Mapping[str, str] | None = None, arguments: tuple[str, ...] = ()
) -> Iterator[Program]:
    """As `running`, for a module's fixture, which needs no event loop of a test."""
    program = Program(directory, env or {}, arguments)
    try:
        asyncio.run(program.start())
        yield program
    finally:
        program.end()


@contextlib.asynccontextmanager
async def running(
    directory: Path, env: Mapping[str, str] | None = None, arguments: tuple[str, ...] = ()
) -> AsyncIterator[Program]:
    """A started program, ended afterwards."""
    program = Program(directory, env or {}, arguments)
    try:
        await program.start()
        yield program
    finally:
        program.end()
