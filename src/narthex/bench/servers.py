"""The measured servers: `narthex serve` as a child, any other command as a child, or a running one.

Rules: a child gets a data directory and a working directory of its own in a temporary folder, a free loopback
port and the bench's limits; it is ended by its pid when the measuring is over, also after a failure.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import psutil

from narthex.bench.load.dialects import BenchTarget, Protocol
from narthex.errors import ClientError, DependencyError

STARTS_WITHIN_S: Final = 30.0
ENDS_WITHIN_S: Final = 15.0
LIMITS: Final = {
    "NARTHEX_MAX_CONNECTIONS_PER_USER": "20000",
    "NARTHEX_MAX_CONNECTIONS_PER_ADDRESS": "20000",
    "NARTHEX_MAX_CONNECTIONS_UNAUTHENTICATED": "5000",
    "NARTHEX_COMMANDS_PER_S": "10000",
    "NARTHEX_COMMANDS_BURST": "100000",
    "NARTHEX_HTTP_REQUESTS_PER_S": "10000",
    "NARTHEX_HTTP_REQUESTS_BURST": "100000",
}
"""Limits for a bench, which no user needs: thousands of sockets from one address, and commands without a pause."""

_POLICY: Final = ("ENVIRONMENT", "PORT", "K_SERVICE", "KUBERNETES_SERVICE_HOST")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def narthex_server(
    name: str, *, arguments: tuple[str, ...] = (), extra: Mapping[str, str] | None = None
) -> Iterator[BenchTarget]:
    """`narthex serve` with embedded engines and the bench's limits.

    Raises:
        DependencyError: it did not start.
    """
    port = free_port()
    secret, key = secrets.token_urlsafe(48), secrets.token_hex(24)
    with tempfile.TemporaryDirectory(prefix="narthex-bench-") as folder:
        words = [
            *(sys.executable, "-m", "narthex", "serve", "--port", str(port)),
            *("--data-dir", f"{folder}/data", "--log-format", "json", "--log-level", "warning", *arguments),
        ]
        kept = {
            variable: value
            for variable, value in os.environ.items()
            if not variable.startswith(("NARTHEX_", "E2E_", "STAGING_E2E")) and variable not in _POLICY
        }
        environment = {
            **kept,
            **LIMITS,
            "NARTHEX_JWT_SECRET": secret,
            "NARTHEX_ADMIN_KEY": key,
            "NARTHEX_CONFORMANCE_ECHO": "1",
            **(extra or {}),
        }
        with _child(name, words, folder, environment) as process:
            _wait(name, process, Path(folder), lambda: _answers_readyz(port))
            yield attached(
                name, "127.0.0.1", port, process.pid, protocol="narthex", secret=secret, api_key=key
            )


@contextlib.contextmanager
def command_server(
    name: str, command: str, *, protocol: Protocol = "raw", secret: str = "", api_key: str = ""
) -> Iterator[BenchTarget]:
    """Any server on loopback; `{port}` in `command` becomes a free port. Words are split as a shell would.

    Raises:
        DependencyError: it did not open its port.
    """
    port = free_port()
    words = [word.replace("{port}", str(port)) for word in shlex.split(command)]
    with (
        tempfile.TemporaryDirectory(prefix="narthex-bench-") as folder,
        # Relative paths in the command are relative to this directory.
        _child(name, words, str(Path.cwd()), dict(os.environ), log_in=folder) as process,
    ):
        _wait(name, process, Path(folder), lambda: _takes_connections(port))
        yield attached(
            name, "127.0.0.1", port, process.pid, protocol=protocol, secret=secret, api_key=api_key
        )


def attached(
    name: str, host: str, port: int, pid: int | None, *, protocol: Protocol, secret: str, api_key: str
) -> BenchTarget:
    """A server that is running already; without `pid` its CPU is not read.

    Raises:
        ClientError: there is no such process.
    """
    try:
        pids = [psutil.Process(pid).pid] if pid is not None else []
    except psutil.NoSuchProcess as fault:
        raise ClientError("no_process", f"No process has the pid {pid}.", "Give the server's pid.") from fault
    return BenchTarget(
        name=name, protocol=protocol, host=host, port=port, pids=pids, secret=secret, api_key=api_key
    )


@contextlib.contextmanager
def _child(
    name: str, words: list[str], folder: str, environment: dict[str, str], *, log_in: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    with (Path(log_in or folder) / "server.log").open("wb") as log:
        try:
            process = subprocess.Popen(  # noqa: S603 -- the command is the user's own
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, env=environment
            )
        except OSError as fault:
            raise DependencyError(
                name, f"{words[0]} cannot be started: {fault.strerror}.", "Check the command."
            ) from fault
        try:
            yield process
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the child, and its own children that it left running (a command may be a script, or fork workers)."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        children = []
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(children, timeout=1)
    for child in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(left, timeout=ENDS_WITHIN_S)


def _answers_readyz(port: int) -> bool:
    request = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), 1) as probe:
        probe.settimeout(2)
        probe.sendall(request)
        return b" 200 " in probe.recv(200)[:16]


def _takes_connections(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), 1).close()
    return True


def _wait(name: str, process: subprocess.Popen[bytes], folder: Path, ready: Callable[[], bool]) -> None:
    """Wait until the server is ready. Raises DependencyError when it ends or is not ready in time."""
    end = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError):
            if ready():
                return
        time.sleep(0.05)
    said = (folder / "server.log").read_text(errors="replace")[-1500:]
    raise DependencyError(name, f"{name} did not start:\n{said}", "Start it by hand to see the error.")
