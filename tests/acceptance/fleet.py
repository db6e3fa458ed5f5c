"""Several real processes on shared engines: gateways, workers, a NATS and a PostgreSQL, on loopback.

Not here: clients. Rules: as for one program (`program.py`): processes are ended by pid, waits are for events only; the
engines are
started once for a fleet and outlive its processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from tests.acceptance.program import Program, clean_environment
from tests.services import NatsServer, PostgresServer, data_directory, database

ADMIN_KEY = "an-admin-key-of-decent-length-0123456789"


class WorkerProgram(Program):
    """`narthex worker`, with the lifecycle of `Program`."""

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start without waiting."""
        with self.log_file.open("ab") as out:
            self.process = subprocess.Popen(
                self.command("worker", "--port", str(self.port), *self.arguments),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=clean_environment(self.env),
                cwd=self.directory,
            )
        return self.process


class Fleet:
    """Programs on one broker and one store.

    Attributes:
        env: of every process.
    """

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.directory = directory
        self.env = dict(env)
        self.programs: list[Program] = []

    async def gateway(self, *arguments: str, **env: str) -> Program:
        """Start another gateway."""
        return await self._start(Program, arguments, env)

    async def gateways(self, count: int, *arguments: str, **env: str) -> list[Program]:
        """Start several at once."""
        return list(await asyncio.gather(*(self.gateway(*arguments, **env) for _ in range(count))))

    async def worker(self, *arguments: str, **env: str) -> Program:
        """Start another worker."""
        return await self._start(WorkerProgram, arguments, env)

    async def _start(
        self, kind: type[Program], arguments: tuple[str, ...], env: Mapping[str, str]
    ) -> Program:
        directory = self.directory / f"p{len(self.programs)}"
        directory.mkdir()
        program = kind(directory, self.env | dict(env), arguments)
        self.programs.append(program)
        await program.start()
        return program

    def end(self) -> None:
        """End all of them at the same time."""
        living = [one for one in self.programs if one.process is not None and one.process.poll() is None]
        for program in living:
            assert program.process is not None
            program.process.terminate()
        for program in living:
            program.end()

    @property
    def log(self) -> str:
        """The logs of all programs."""
        return "\n".join(f"--- {one.directory.name}\n{one.log}" for one in self.programs)


@contextlib.asynccontextmanager
async def engines() -> AsyncIterator[tuple[NatsServer, PostgresServer, str]]:
    """A NATS and a PostgreSQL server, and the URL of a new database."""
    with data_directory("fleet-nats") as log, data_directory("fleet-pg") as data:
        nats, postgres = NatsServer(log / "js"), PostgresServer(data / "pg")
        await asyncio.to_thread(postgres.initialise)
        try:
            await asyncio.gather(asyncio.to_thread(nats.start), asyncio.to_thread(postgres.start))
            async with database(postgres) as url:
                yield nats, postgres, url
        finally:
            nats.kill()
            postgres.stop()


def shared(broker_url: str, store_url: str, **more: str) -> dict[str, str]:
    """The environment of a fleet's processes."""
    return {
        "NARTHEX_BROKER_URL": broker_url,
        "NARTHEX_STORE_URL": store_url,
        "NARTHEX_ADMIN_KEY": ADMIN_KEY,
        "NARTHEX_DIRECT_MEMBERSHIP": "*",
        "NARTHEX_MAX_CONNECTIONS_PER_USER": "10000",
        "NARTHEX_MAX_CONNECTIONS_PER_ADDRESS": "20000",
        **more,
    }


@contextlib.asynccontextmanager
async def fleet(directory: Path, **env: str) -> AsyncIterator[Fleet]:
    """Engines and an empty fleet on them; all are stopped afterwards."""
    async with engines() as (nats, _, store_url):
        built = Fleet(directory, shared(nats.url, store_url, **env))
        try:
            yield built
        finally:
            await asyncio.to_thread(built.end)
