"""The engines of the contract suites: one rig per engine makes adapters that share one set of data."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Protocol

from narthex.adapters.brokers.sqlite import SqliteBroker
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.ports.broker import Broker
from narthex.ports.store import Store


class BrokerRig(Protocol):
    """Makes brokers on the same data: one after the other or, where `shared`, at the same time."""

    shared: bool

    def make(self) -> Broker:
        """A broker that is not started."""

    def spec(self) -> str:
        """The arguments of `broker_from` for another process."""

    async def purge(self) -> None:
        """Delete the whole log, as an operator can. Where it is not `shared` no broker runs."""


class StoreRig(Protocol):
    """Makes stores on the same data: one after the other or, where `shared`, at the same time."""

    shared: bool

    def make(self) -> Store:
        """A store that is not started."""

    def spec(self) -> str:
        """The arguments of `store_from` for another process."""


class SqliteBrokerRig:
    """A log file in a temporary directory."""

    shared = False

    def __init__(self, directory: Path) -> None:
        self.path = directory / "log.db"

    def make(self) -> SqliteBroker:
        return SqliteBroker(self.path)

    def spec(self) -> str:
        return json.dumps({"engine": "sqlite", "where": str(self.path)})

    async def purge(self) -> None:
        for file in self.path.parent.glob(f"{self.path.name}*"):
            file.unlink()


class SqliteStoreRig:
    """A store file in a temporary directory."""

    shared = False

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store.db"

    def make(self) -> SqliteStore:
        return SqliteStore(self.path)

    def spec(self) -> str:
        return json.dumps({"engine": "sqlite", "where": str(self.path)})


class UrlBrokerRig:
    """A separate server behind a URL, which several brokers share."""

    shared = True

    def __init__(self, engine: str, url: str) -> None:
        self.engine = engine
        self.url = url

    def make(self) -> Broker:
        return broker_from(self.spec())

    def spec(self) -> str:
        return json.dumps({"engine": self.engine, "where": self.url})

    async def purge(self) -> None:
        url, _, prefix = self.url.partition("?prefix=")
        if self.engine == "nats":
            import nats

            client = await nats.connect(url)
            await client.jetstream().purge_stream(f"{prefix}-log")
            await client.close()
            return
        import redis.asyncio

        async with redis.asyncio.Redis.from_url(url) as server:
            async for name in server.scan_iter(f"{prefix}:*"):
                await server.delete(name)


class PostgresStoreRig:
    """A separate database on a server that all tests share."""

    shared = True

    def __init__(self, url: str) -> None:
        self.url = url

    def make(self) -> Store:
        return store_from(self.spec())

    def spec(self) -> str:
        return json.dumps({"engine": "postgres", "where": self.url})


def broker_from(spec: str) -> Broker:
    """The inverse of `BrokerRig.spec`."""
    found = json.loads(spec)
    if found["engine"] == "sqlite":
        return SqliteBroker(Path(found["where"]))
    if found["engine"] == "nats":
        from narthex.adapters.brokers.nats import NatsBroker

        return NatsBroker(found["where"])
    if found["engine"] == "redis":
        from narthex.adapters.brokers.redis import RedisBroker

        return RedisBroker(found["where"])
    raise ValueError(found["engine"])


def store_from(spec: str) -> Store:
    """The inverse of `StoreRig.spec`."""
    found = json.loads(spec)
    if found["engine"] == "sqlite":
        return SqliteStore(Path(found["where"]))
    if found["engine"] == "postgres":
        from narthex.adapters.stores.postgres import PostgresStore

        return PostgresStore(found["where"])
    raise ValueError(found["engine"])


def child(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in a separate process."""
    return [sys.executable, "-m", f"tests.contracts.{module}", *arguments]
