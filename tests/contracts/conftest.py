"""Fixtures of the contract suites, with one parameter per engine."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from narthex.ports.broker import Broker
from narthex.ports.store import Store
from tests.contracts.recorder import Recorder
from tests.contracts.rigs import (
    BrokerRig,
    PostgresStoreRig,
    SqliteBrokerRig,
    SqliteStoreRig,
    StoreRig,
    UrlBrokerRig,
)
from tests.services import NatsServer, PostgresServer, ValkeyServer, data_directory, database


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """One server for the whole run; each test has its own prefix, and therefore its own streams."""
    with data_directory("nats") as directory:
        server = NatsServer(directory / "data")
        server.start()
        yield server
        server.kill()


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """One server for the whole run; each test has its own prefix."""
    with data_directory("valkey") as directory:
        server = ValkeyServer(directory / "data")
        server.start()
        yield server
        server.kill()


def make_broker_rig(engine: str, request: pytest.FixtureRequest, tmp_path: Path) -> BrokerRig:
    """The rig of one engine."""
    if engine == "sqlite":
        return SqliteBrokerRig(tmp_path)
    server: NatsServer | ValkeyServer = request.getfixturevalue(
        "nats_server" if engine == "nats" else "valkey_server"
    )
    return UrlBrokerRig(engine, f"{server.url}?prefix=t{secrets.token_hex(4)}")


@pytest.fixture(params=["sqlite", "nats", "redis"])
def broker_rig(request: pytest.FixtureRequest, tmp_path: Path) -> BrokerRig:
    """Each engine in turn."""
    return make_broker_rig(request.param, request, tmp_path)


@pytest.fixture(params=["nats", "redis"])
def shared_rig(request: pytest.FixtureRequest, tmp_path: Path) -> BrokerRig:
    """Each engine that several nodes can share."""
    return make_broker_rig(request.param, request, tmp_path)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for the whole run; each test has its own database."""
    with data_directory("postgres") as directory:
        server = PostgresServer(directory / "data")
        server.initialise()
        server.start()
        yield server
        server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
async def store_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreRig]:
    """Each engine in turn."""
    if request.param == "sqlite":
        yield SqliteStoreRig(tmp_path)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    async with database(server) as url:
        yield PostgresStoreRig(url)


@pytest.fixture
async def recorder() -> Recorder:
    """The handler of `broker`."""
    return Recorder()


@pytest.fixture
async def broker(broker_rig: BrokerRig, recorder: Recorder) -> AsyncIterator[Broker]:
    """A started broker, node `n1`."""
    made = broker_rig.make()
    await made.start(recorder, "n1")
    yield made
    await made.stop()


@pytest.fixture
async def store(store_rig: StoreRig) -> AsyncIterator[Store]:
    """A started store."""
    made = store_rig.make()
    await made.start()
    yield made
    await made.stop()
