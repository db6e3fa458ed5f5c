"""The file system of a path, and SQLite's refusal of network file systems."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from narthex.adapters.sqlite import file_system
from narthex.adapters.sqlite.file import OwnerLock, connect, dependency_error, look_at_file
from narthex.adapters.sqlite.file_system import file_system_of
from narthex.errors import DISK_FULL, ConfigError, Damaged

MOUNTS = r"""
22 28 0:21 / /proc rw,nosuid shared:12 - proc proc rw
28 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 28 0:50 / /data rw,relatime shared:9 - nfs4 filer:/data rw
41 40 254:2 / /data/local rw,relatime shared:10 - xfs /dev/vdb rw
42 28 0:51 / /with\040space rw shared:11 master:3 - fuse.gcsfuse bucket rw
malformed
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/log.db", "nfs4"),
        ("/data/local/log.db", "xfs"),
        ("/database/log.db", "ext4"),
        ("/with space/log.db", "fuse.gcsfuse"),
    ],
)
def test_the_innermost_mount_counts(path: str, kind: str) -> None:
    """By whole names, escapes taken back."""
    assert file_system_of(Path(path), MOUNTS) == kind
    assert file_system_of(Path(path), "") == ""


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the file is created, with the kind and the remedy; a local disk is accepted."""
    mounts = tmp_path / "mountinfo"
    monkeypatch.setattr(file_system, "MOUNTS", mounts)
    mounts.write_text(f"40 28 0:50 / {tmp_path.resolve()} rw shared:9 - nfs4 filer:/data rw\n")
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\).*NARTHEX_STORE_URL"):
        OwnerLock("broker", tmp_path / "log.db").acquire()
    assert not (tmp_path / "log.db.lock").exists()
    mounts.write_text("28 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n")
    lock = OwnerLock("broker", tmp_path / "log.db")
    lock.acquire()
    lock.release()


def test_a_file_that_cannot_be_opened_is_let_go(tmp_path: Path) -> None:
    """Also while the error is still referenced: an open descriptor would keep the locks of a file that was moved
    away.
    """
    path = tmp_path / "log.db"
    path.write_bytes(b"no database" * 100)
    with pytest.raises(sqlite3.DatabaseError) as refused:
        connect(path)
    held = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert path not in held
    assert refused.value.__traceback__ is not None


def test_a_full_disk_is_named() -> None:
    """SQLite's own error, for a file that may not grow."""
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE t (a)")
    connection.execute("PRAGMA max_page_count = 2")
    with pytest.raises(sqlite3.OperationalError) as full:
        connection.execute("INSERT INTO t VALUES (zeroblob(100000))")
    connection.close()
    assert dependency_error("broker", Path("log.db"), full.value).sign == DISK_FULL


def test_a_data_file_in_words(tmp_path: Path) -> None:
    """For `narthex check`: that it will be made, what is in it, or that it is damaged and how to go on."""
    path = tmp_path / "store.db"
    assert look_at_file("store", path) == f"embedded SQLite; {path} will be created"
    connection = connect(path, synchronous="NORMAL")
    connection.execute("CREATE TABLE a (b)")
    connection.execute("CREATE TABLE c (d)")
    connection.close()
    assert look_at_file("store", path) == f"embedded SQLite in {path}, 2 tables"
    path.write_bytes(b"no database, but long enough to be read as one" * 100)
    for name, lost in (
        ("store", "start empty"),
        ("broker", "a new epoch begins"),
        ("other", "the new file starts empty"),
    ):
        with pytest.raises(Damaged) as damaged:
            look_at_file(name, path)
        assert f"{path} is damaged" in str(damaged.value)
        assert f"mv {path} {path}.damaged" in damaged.value.remedy
        assert lost in damaged.value.remedy


@pytest.mark.parametrize(
    ("name", "remedy", "sign"),
    [
        ("SQLITE_FULL", "Free disk space", "disk_full"),
        ("SQLITE_IOERR_WRITE", "I/O errors", ""),
        ("SQLITE_READONLY", "writable for this user", ""),
        ("SQLITE_CANTOPEN", "Create the data directory", ""),
        ("SQLITE_PERM", "writable for this user", ""),
        ("SQLITE_BUSY", "end it, then retry", "engine_hung"),
        ("SQLITE_LOCKED_SHAREDCACHE", "end it, then retry", "engine_hung"),
        ("SQLITE_NOMEM", "Check the log", ""),
        ("", "Check the log", ""),
    ],
)
def test_each_failure_of_sqlite_names_its_remedy(tmp_path: Path, name: str, remedy: str, sign: str) -> None:
    """By SQLite's own name of the error; health shows the sign."""
    error = sqlite3.OperationalError("said")
    if name:
        error.sqlite_errorname = name
    found = dependency_error("broker", tmp_path / "log.db", error)
    assert f"log.db failed with {name or 'OperationalError'}: said." in str(found)
    assert remedy in found.remedy
    assert found.sign == sign
