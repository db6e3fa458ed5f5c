"""Which broker and which store: chosen by their URLs, SQLite in the data directory without one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from narthex.errors import ConfigError
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.settings import Settings


def make_broker(settings: Settings) -> Broker:
    """The broker that `broker_url` names. Raises ConfigError when its extra is not installed."""
    url = settings.broker_url.get_secret_value() if settings.broker_url else ""
    if not url:
        from narthex.adapters.brokers.sqlite import SqliteBroker

        return SqliteBroker(_data(settings) / "log.db", synchronous=_synchronous(settings))
    return broker_at(url)


def broker_at(url: str) -> Broker:
    """The broker at a URL. Raises ConfigError when its extra is not installed."""
    scheme = url.partition(":")[0]
    try:
        if scheme in ("nats", "tls"):
            from narthex.adapters.brokers.nats import NatsBroker

            return NatsBroker(url)
        from narthex.adapters.brokers.redis import RedisBroker

        return RedisBroker(url)
    except ImportError as fault:
        extra = "nats" if scheme in ("nats", "tls") else "redis"
        raise ConfigError(
            [f"NARTHEX_BROKER_URL needs {fault.name}. Install it: pip install 'narthex[{extra}]'."]
        ) from fault


def make_store(settings: Settings, *, beside: bool = False) -> Store:
    """The store that `store_url` names. Raises ConfigError when its extra is not installed.

    `beside`: for a moment, beside a server that may be running on it (the command line).
    """
    url = settings.store_url.get_secret_value() if settings.store_url else ""
    if not url:
        from narthex.adapters.stores.sqlite import SqliteStore

        return SqliteStore(_data(settings) / "narthex.db", synchronous=_synchronous(settings), beside=beside)
    try:
        from narthex.adapters.stores.postgres import PostgresStore

        return PostgresStore(url)
    except ImportError as fault:
        raise ConfigError(
            [f"NARTHEX_STORE_URL needs {fault.name}. Install it: pip install 'narthex[postgres]'."]
        ) from fault


def _synchronous(settings: Settings) -> Literal["NORMAL", "FULL"]:
    return "FULL" if settings.sqlite_synchronous == "full" else "NORMAL"


def _data(settings: Settings) -> Path:
    """The data directory, made if it is not there, readable by its owner only: it holds signing keys."""
    directory = settings.data_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as fault:
        raise ConfigError(
            [
                f"The data directory {directory} cannot be made: {fault.strerror}. Choose another with --data-dir."
            ]
        ) from fault
    return directory
