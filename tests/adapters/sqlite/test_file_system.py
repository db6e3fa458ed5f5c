"""The file system of a path, and SQLite's refusal of network file systems."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from narthex.adapters.sqlite import file_system
from narthex.adapters.sqlite.file import OwnerLock, connect, dependency_error
from narthex.adapters.sqlite.file_system import file_system_of
from narthex.errors import DISK_FULL, ConfigError

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
        OwnerLock(tmp_path / "log.db").acquire()
    assert not (tmp_path / "log.db.lock").exists()
    mounts.write_text("28 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n")
    lock = OwnerLock(tmp_path / "log.db")
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
