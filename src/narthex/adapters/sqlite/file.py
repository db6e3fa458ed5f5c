"""One SQLite file: its owner lock, its pragmas and its schema version. No tables live here.

Rules: a file has one owning process, held by an advisory lock on a file beside it (`log.db.lock`), because
offsets and epochs are numbered in that process's memory; a file of a newer schema is refused, never guessed at.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import sqlite3
from pathlib import Path
from typing import Final, Literal

from narthex.adapters.sqlite.file_system import require_local
from narthex.errors import DISK_FULL, ENGINE_HUNG, ConfigError, Damaged, DependencyError

Synchronous = Literal["NORMAL", "FULL"]
"""NORMAL: a commit survives the death of the process. FULL: it survives power loss too (an fsync a commit)."""

OTHERS: Final = 0o077  # any right of users other than the owner
BESIDE: Final = ("-wal", "-shm", "-journal", ".lock")
BUSY_TIMEOUT_MS: Final = 5_000  # only a checkpoint or a backup tool can hold the write lock: both are short
STATEMENT_CACHE: Final = 512
# A connection's page cache grows to its bound under churn, whatever is hot, and never shrinks. With 16 MiB for each
# of a gateway's six connections its memory rose for twenty minutes, by up to 96 MiB, with a flat Python heap. The
# kernel caches the files anyway. With 4 MiB a writer's appends to 20,000 channels at random cost 15 % more CPU.
WRITER_CACHE_KIB: Final = 8_192
READER_CACHE_KIB: Final = 2_048
CHECKPOINT_CACHE_KIB: Final = 256  # copies pages from the log to the file and reads none
JOURNAL_BYTES: Final = 16 << 20  # less than `checkpoint.HARD_BYTES`


class OwnerLock:
    """A claim on a data file, for as long as this process lives. `flock`: a crash releases it.

    Args:
        dependency: of errors, `broker` or `store`.
        path: the data file.
        shared: whether other processes with a shared claim may use the file too; else none may.
    """

    def __init__(self, dependency: str, path: Path, *, shared: bool = False) -> None:
        self._dependency = dependency
        self.path = path.with_name(path.name + ".lock")
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ConfigError: another process holds it, or it is on a network file system.
            DependencyError: its file cannot be opened.
        """
        try:
            require_local(self.path)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            detail = f"Cannot open {self.path}: {error.strerror}."
            raise DependencyError(self._dependency, detail, _REMEDIES["CANTOPEN"]) from error
        try:
            fcntl.flock(descriptor, self._mode | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise ConfigError(
                [f"{self.path} is in use by pid {holder}: stop it, or give this process its own --data-dir."]
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it back; idempotent. The lock file stays: unlinking it would let two processes hold two locks."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def require_same_file(dependency: str, path: Path, inode: int, writes: str) -> None:
    """Raises DependencyError: the file at `path` is not the open one of this inode. `writes` are lost with that one."""
    with contextlib.suppress(OSError):
        if path.stat().st_ino == inode:
            return
    raise DependencyError(
        dependency,
        f"{path.name} was removed or replaced while it was open.",
        f"Restart the process; {writes} made since then are lost with the old file.",
    )


def make_private(path: Path) -> None:
    """Let only this user read and write a data file and what SQLite keeps beside it; make the file if it is not there.

    It holds signing keys and what people wrote. SQLite gives a new file the mode that the umask leaves (0644), and its
    log the mode of the file. Never opens an existing file: closing it would drop the locks that SQLite holds on it.

    Raises:
        ConfigError: others may read it, and its mode cannot be changed.
        OSError: it cannot be made.
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for name in (path.name, *(path.name + suffix for suffix in BESIDE)):
        found = path.with_name(name)
        try:
            if found.stat().st_mode & OTHERS:
                found.chmod(0o600)
        except FileNotFoundError:
            continue
        except PermissionError as error:
            problem = (
                f"Other users can read {found}, and only its owner, another user, can change its permissions."
            )
            raise ConfigError([f"{problem} Make this user its owner, or set another --data-dir."]) from error


def connect(
    path: Path,
    *,
    synchronous: Synchronous = "NORMAL",
    read_only: bool = False,
    cache_kib: int | None = None,
) -> sqlite3.Connection:
    """Open a connection for the calling thread: WAL, manual transactions, no automatic checkpoint.

    Args:
        path: the file.
        synchronous: see `Synchronous`.
        read_only: whether it never writes.
        cache_kib: bound of its page cache; None: a writer's or a reader's.

    Raises:
        sqlite3.Error: translate it with `dependency_error`.
        ConfigError: see `make_private`.
    """
    if not read_only:
        with contextlib.suppress(OSError):  # SQLite says better what is wrong with a directory or a volume
            make_private(path)
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_MS / 1000,
        cached_statements=STATEMENT_CACHE,
    )
    try:
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(f"PRAGMA synchronous={synchronous}")
            # Deleted content is overwritten where that costs no extra I/O: a deleted thread is really gone.
            connection.execute("PRAGMA secure_delete=FAST")
            # A log that grew in a burst is cut back when it restarts, so its size tells the checkpointer the truth.
            connection.execute(f"PRAGMA journal_size_limit={JOURNAL_BYTES}")
        connection.execute("PRAGMA wal_autocheckpoint=0")  # `checkpoint.py` does it off the commit path
        cache = cache_kib or (READER_CACHE_KIB if read_only else WRITER_CACHE_KIB)
        connection.execute(f"PRAGMA cache_size=-{cache}")
        connection.execute("PRAGMA temp_store=MEMORY")
        connection.execute("PRAGMA foreign_keys=ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def claim_format(connection: sqlite3.Connection, path: Path, application_id: int) -> None:
    """Mark a new file as ours, and refuse one that another program wrote.

    Raises:
        ConfigError: the file carries another application id, or tables and none.
    """
    found: int = connection.execute("PRAGMA application_id").fetchone()[0]
    if found == application_id:
        return
    tables: int = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if found != 0 or tables != 0:
        raise ConfigError(
            [
                f"{path} is another program's file (application id {found}): move it, or set another --data-dir."
            ]
        )
    connection.execute(f"PRAGMA application_id={application_id}")


def look_at_file(dependency: str, path: Path) -> str:
    """Read a little of a data file beside a process that may own it; describes the file in words.

    Raises:
        DependencyError: it is damaged, or not a database.
    """
    if not path.exists():
        return f"embedded SQLite; {path} will be created"
    try:
        connection = connect(path, read_only=True)
        try:
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE type = 'table'").fetchone()[
                0
            ]
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise dependency_error(dependency, path, error) from error
    return f"embedded SQLite in {path}, {tables} tables"


def dependency_error(dependency: str, path: Path, error: sqlite3.Error) -> DependencyError:
    """Translate a failure of SQLite: the file, SQLite's message, and the remedy."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    kind = name.removeprefix("SQLITE_").partition("_")[0]
    if kind in _DAMAGE:
        return Damaged(dependency, f"{path} is damaged ({name}: {error}).", _restore(dependency, path))
    remedy = _REMEDIES.get(kind, "Check the log for the cause, then retry.")
    return DependencyError(
        dependency, f"{path.name} failed with {name}: {error}.", remedy, sign=_SIGNS.get(kind, "")
    )


_REMEDIES: Final = {
    "FULL": "Free disk space on the volume of --data-dir; no acknowledged write was lost.",
    "IOERR": "Check the volume of --data-dir and the kernel log for I/O errors.",
    "READONLY": "Make the data directory writable for this user.",
    "CANTOPEN": "Create the data directory and make it writable for this user.",
    "PERM": "Make the data directory writable for this user.",
    "BUSY": "Another program holds the file for longer than 5 s: end it, then retry.",
    "LOCKED": "Another program holds the file for longer than 5 s: end it, then retry.",
}
_SIGNS: Final = {"FULL": DISK_FULL, "BUSY": ENGINE_HUNG, "LOCKED": ENGINE_HUNG}
_DAMAGE: Final = ("CORRUPT", "NOTADB")
_LOST: Final = {
    "broker": "a new epoch begins: clients reload their threads, and runs in progress end",
    "store": "users, threads, messages and signing keys start empty",
}
"""The consequence of moving the file away, by dependency."""


def _restore(dependency: str, path: Path) -> str:
    moves = "; ".join(
        shlex.join(["mv", str(path) + suffix, f"{path}.damaged{suffix}"])
        for suffix in ("", "-wal", "-shm")
        if suffix == "" or Path(str(path) + suffix).exists()
    )
    return (
        f"Stop narthex and restore the file from a backup; or move it aside ({moves}) and start again: "
        f"{_LOST.get(dependency, 'the new file starts empty')}."
    )
