"""Creates the tables of `log.db`, opens the file, and decides when its epoch changes.

Not here: rows of channels and publications (`log.py`). Rules: the file holds the epoch, so that another file is another
epoch. The epoch also changes when the machine stopped while commits were not synced (synchronous=NORMAL), because
acknowledged publications may be missing then.
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path
from typing import Final

import msgspec

from narthex.adapters.machine import boot_id
from narthex.adapters.sqlite.file import Synchronous, claim_format
from narthex.errors import ConfigError
from narthex.ports.broker import KEPT_PUBLICATIONS

APPLICATION_ID: Final = 0x6E727468  # "nrth"
VERSION: Final = 1

DEFAULT_KEPT_AGE_S: Final = 7 * 86_400.0  # a device that was offline for longer reads threads from the store

_SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    # A channel without a row was never published to and has the file's epoch. `floor` is the highest dropped offset;
    # the top is max(offset) in `log`, else `floor`, so that an append writes one table only.
    """CREATE TABLE channels (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL,
       floor INTEGER NOT NULL)""",
    # Idempotency keys are stored in their rows and looked up in memory: an index would cost every publication a
    # second page, in the write-ahead log and again at the checkpoint.
    """CREATE TABLE log (channel INTEGER NOT NULL, offset INTEGER NOT NULL, at REAL NOT NULL, key TEXT, tags TEXT,
       data BLOB NOT NULL, PRIMARY KEY (channel, offset)) WITHOUT ROWID""",
)


class ChannelRetention(msgspec.Struct, frozen=True):
    """A channel's retention: the newest `count` publications, none older than `age_s` seconds.

    The log may hold more than both: rows are dropped a little later, in batches.
    """

    count: int = KEPT_PUBLICATIONS
    age_s: float = DEFAULT_KEPT_AGE_S


def new_epoch() -> str:
    """A log's identity: 48 random bits, short because every position carries it."""
    return secrets.token_urlsafe(6)


def prepare(connection: sqlite3.Connection, path: Path, synchronous: Synchronous) -> str:
    """Create or check the schema, record that the file is in use, and return the file's epoch.

    Raises:
        ConfigError: the file is foreign or newer than this program.
        sqlite3.Error: translate it with `dependency_error`.
    """
    claim_format(connection, path, APPLICATION_ID)
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise ConfigError(
            [f"{path} has schema {version}, but this narthex knows {VERSION}: start the newer one."]
        )
    # The following writes decide on epochs, so they are synced with any setting of the log.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if version == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={VERSION}")
        epoch = _open_epoch(connection, synchronous)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute(f"PRAGMA synchronous={synchronous}")
    return epoch


def _open_epoch(connection: sqlite3.Connection, synchronous: Synchronous) -> str:
    meta: dict[str, str] = dict(connection.execute("SELECT name, value FROM meta").fetchall())
    epoch = meta.get("epoch", "")
    in_use = meta.get("in_use", "")  # the boot that wrote without syncing and did not close the file
    if not epoch:
        epoch = new_epoch()
    elif in_use and in_use != boot_id():
        epoch = new_epoch()
        connection.execute("UPDATE channels SET epoch = ?", (epoch,))
    put(connection, "epoch", epoch)
    put(connection, "in_use", boot_id() if synchronous == "NORMAL" else "")
    return epoch


def close_cleanly(connection: sqlite3.Connection) -> None:
    """Sync everything and record that no commit can be missing. Call it last, on the writer's connection."""
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.execute("BEGIN IMMEDIATE")
    put(connection, "in_use", "")
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()


def put(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Set one value of `meta`."""
    connection.execute(
        "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )
