"""Finds the kind of file system that holds a path, and refuses those on which SQLite is not safe.

Rules: SQLite's write-ahead log is memory shared by the processes of one machine, and a network file system keeps
neither that nor its locks; an unknown file system is taken for a local disk.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from narthex.errors import ConfigError

MOUNTS: Final = Path("/proc/self/mountinfo")
NETWORK: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "gpfs"),
        *("beegfs", "ocfs2", "gfs2"),
    )
) | {
    f"fuse.{name}"
    for name in ("sshfs", "gcsfuse", "s3fs", "rclone", "glusterfs", "ceph", "goofys", "juicefs")
}
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


def file_system_of(path: Path, mounts: str) -> str:
    """The type of the file system that holds a path, from the text of `mountinfo`; empty when it is not there."""
    found, depth = "", -1
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(" "), after.split(" ")
        if len(fields) < 5 or not kinds[0]:
            continue
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        if path.is_relative_to(point) and len(point.parts) >= depth:
            found, depth = kinds[0], len(point.parts)  # of two on one point the later one is seen
    return found


def require_local(path: Path) -> None:
    """Refuse a data file on a network file system. Raises ConfigError."""
    try:
        kind = file_system_of(path.resolve(), MOUNTS.read_text(errors="replace"))
    except OSError:  # not Linux
        return
    if kind in NETWORK:
        problem = (
            f"{path.parent} is on a network file system ({kind}), which does not support SQLite's locks and shared "
            f"memory: the file would be corrupted. Set --data-dir to a local disk, or NARTHEX_BROKER_URL and "
            "NARTHEX_STORE_URL to servers that several machines can share."
        )
        raise ConfigError([problem])
