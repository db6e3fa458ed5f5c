"""Makes the broker and the store: chosen by their URLs, SQLite in the data directory without one.

Not here: opening them (`app/lifecycle` does that), the engines themselves (`adapters`).
"""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path
from typing import Final, Literal

from narthex.adapters.sqlite.file import look_at_file
from narthex.errors import ConfigError
from narthex.extras import Need, require
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.settings import Settings
from narthex.settings.requirements import NATS_SCHEMES, requirements

LOG_FILE: Final = "log.db"
STORE_FILE: Final = "narthex.db"
SHARED_FILE: Final = "guard.db"

OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def make_broker(settings: Settings) -> Broker:
    """The broker that `broker_url` names. Raises ConfigError when its extra is not installed."""
    url = settings.broker_url.get_secret_value() if settings.broker_url else ""
    if not url:
        from narthex.adapters.brokers.sqlite import SqliteBroker

        return SqliteBroker(data_directory(settings) / LOG_FILE, synchronous=_synchronous(settings))
    return broker_at(url)


def broker_at(url: str) -> Broker:
    """The broker at a URL. Raises ConfigError when its extra is not installed."""
    scheme = url.partition(":")[0]
    reason = f"NARTHEX_BROKER_URL ({scheme}://)"
    if scheme in NATS_SCHEMES:
        require(Need("nats", reason))
        from narthex.adapters.brokers.nats import NatsBroker

        return NatsBroker(url)
    require(Need("redis", reason))
    from narthex.adapters.brokers.redis import RedisBroker

    return RedisBroker(url)


def make_store(settings: Settings, *, beside: bool = False) -> Store:
    """The store that `store_url` names. Raises ConfigError when its extra is not installed.

    `beside`: briefly, beside a server that may be using the same store (the command line).
    """
    url = settings.store_url.get_secret_value() if settings.store_url else ""
    if not url:
        from narthex.adapters.stores.sqlite import SqliteStore

        return SqliteStore(
            data_directory(settings) / STORE_FILE, synchronous=_synchronous(settings), beside=beside
        )
    require(*requirements(settings, {"store"}))
    from narthex.adapters.stores.postgres import PostgresStore

    return PostgresStore(url)


def make_shared_store(settings: Settings) -> Store:
    """The store of a guard: the one that `store_url` names, else a SQLite file that several processes share."""
    if settings.store_url:
        return make_store(settings)
    from narthex.adapters.stores.sqlite import SqliteStore

    return SqliteStore(
        data_directory(settings) / SHARED_FILE, synchronous=_synchronous(settings), shared=True
    )


async def reach_broker(settings: Settings) -> str:
    """Connect to the configured broker and leave, changing nothing; returns a description of the answer.

    Raises:
        ConfigError: its extra is missing, or the URL is wrong.
        DependencyError: it does not answer, or cannot be used.
    """
    url = settings.broker_url.get_secret_value() if settings.broker_url else ""
    if not url:
        return await asyncio.to_thread(look_at_file, "broker", settings.data_dir / LOG_FILE)
    require(*requirements(settings, {"broker"}))
    if url.partition(":")[0] in NATS_SCHEMES:
        from narthex.adapters.brokers.nats.reach import reach as reach_nats

        return await reach_nats(url)
    from narthex.adapters.brokers.redis.reach import reach as reach_redis

    return await reach_redis(url)


async def reach_store(settings: Settings) -> str:
    """Connect to the configured store and leave, changing nothing; as `reach_broker`."""
    url = settings.store_url.get_secret_value() if settings.store_url else ""
    if not url:
        return await asyncio.to_thread(look_at_file, "store", settings.data_dir / STORE_FILE)
    require(*requirements(settings, {"store"}))
    from narthex.adapters.stores.postgres import PostgresStore

    return await PostgresStore(url).reach()


def _synchronous(settings: Settings) -> Literal["NORMAL", "FULL"]:
    return "FULL" if settings.sqlite_synchronous == "full" else "NORMAL"


def data_directory(settings: Settings) -> Path:
    """The data directory, made if it is not there, readable by its owner only: it holds signing keys.

    Other users must not be able to replace the files in an existing one. Where it belongs to another user, as a
    volume of a platform does, `narthex check` and the start say so.
    """
    directory = settings.data_dir
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
        if found.st_mode & OTHERS_WRITE and found.st_uid == os.geteuid():
            directory.chmod(stat.S_IMODE(found.st_mode) & ~OTHERS_WRITE)
    except OSError as fault:
        raise ConfigError(
            [
                f"The data directory {directory} cannot be created: {fault.strerror}. Choose another with --data-dir."
            ]
        ) from fault
    return directory
