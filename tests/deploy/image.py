"""The image of deploy/Containerfile, built by buildah on a base made FROM scratch, and run as a container is.

Base images cannot be had here: the base is this machine's Python, with its libraries and the few programs that the
stages call. Rules: everything is below one directory, is mounted in a namespace of its own, and ends with the test.
"""

# ruff: noqa: E501 - command lines
from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import psutil

from narthex.extras import program_path
from tests.deploy.programs import program
from tests.timing import within

ROOT: Final = Path(__file__).parents[2]
PROGRAMS: Final = ("sh", "mkdir", "chmod", "cat", "sleep", "id")
CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")


def libraries(binaries: Iterable[Path]) -> set[Path]:
    """The shared libraries that the binaries load, and the loader."""
    said = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False, timeout=60).stdout
    return {Path(found) for found in re.findall(r"(?:=> |^\s+)(/\S+) \(0x", said, re.MULTILINE)}


def _copy(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target)  # a link's target, under the link's name


def base(folder: Path) -> Path:
    """A root file system with Python, a shell and certificates."""
    root = folder / "root"
    home = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    stdlib = home / "lib" / version
    skipped = shutil.ignore_patterns(
        "site-packages", "test", "tests", "__pycache__", "idlelib", "tkinter", "lib2to3"
    )
    shutil.copytree(stdlib, root / stdlib.relative_to("/"), ignore=skipped, symlinks=True)
    (root / stdlib.relative_to("/") / "site-packages").mkdir()
    programs = [Path(program_path(name) or f"/bin/{name}") for name in PROGRAMS]
    python = home / "bin" / version
    binaries = [python, *programs, *stdlib.glob("lib-dynload/*.so")]
    # Node's, which bundles the pages where the checkout has no current bundle.
    node = {
        path
        for name in (
            "dl.so.2",
            "pthread.so.0",
            "rt.so.1",
            "util.so.1",
            "stdc++.so.6",
            "gcc_s.so.1",
            "atomic.so.1",
        )
        for path in Path("/usr/lib").glob(f"*/lib{name}")
    }
    for path in {python, *programs, *libraries(binaries), *node, *Path("/lib").glob("*/libnss_*.so.2")}:
        _copy(path, root)
    for name in ("usr/bin", "usr/local/bin", "etc", "tmp", "var/tmp", "proc", "dev", "sys"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("python3", "python"):
        (root / "usr/local/bin" / name).symlink_to(python)
    if not (root / "bin").exists():
        (root / "bin").symlink_to("usr/bin")
    for name in PROGRAMS:
        for place in ("bin", "usr/bin"):
            if not (root / place / name).exists():
                _copy_to(Path(program_path(name) or f"/bin/{name}"), root / place / name)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (root / "etc/pip.conf").write_text(f"[global]\ncert = {CERTIFICATES}\n")
    (root / "root").mkdir(exist_ok=True)
    (root / "root/.npmrc").write_text(f"cafile={CERTIFICATES}\n")
    _copy(CERTIFICATES, root)
    return root


def _copy_to(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target)


class Builder:
    """buildah with a storage of its own below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._buildah = program("buildah", "apt-get install buildah")
        self._folder = folder
        self._words = [
            "--root",
            str(folder / "storage"),
            "--runroot",
            str(folder / "run"),
            "--storage-driver",
            "vfs",
        ]

    def _run(self, *words: str | Path) -> str:
        kept = {
            name: os.environ[name] for name in ("PATH", "HOME", "PIP_DEFAULT_TIMEOUT") if name in os.environ
        }
        done = subprocess.run(
            [self._buildah, *self._words, *map(str, words)],
            env=kept | {"TMPDIR": str(self._folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=within(600),
        )
        assert done.returncode == 0, done.stdout[-4000:]
        return done.stdout

    def build_base(self) -> str:
        """`FROM scratch`, with the root file system; its name."""
        base(self._folder)
        (self._folder / "Containerfile").write_text("FROM scratch\nCOPY root /\n")
        self._run("build", "--isolation", "chroot", "--layers=false", "-t", "base", self._folder)
        return "localhost/base"

    def build(self, name: str) -> str:
        """deploy/Containerfile on that base; the name of the image."""
        self._run(
            "build", "--isolation", "chroot", "--layers=false", "--build-arg", f"BASE={name}",
            "-f", ROOT / "deploy/Containerfile", "-t", "narthex", ROOT,
        )  # fmt: skip
        return "localhost/narthex"

    def inspect(self, image: str) -> str:
        """The image's configuration as JSON."""
        return self._run("inspect", "--type", "image", image)

    def remove(self) -> None:
        """Unmount and remove the containers, so that the directory can be removed."""
        self._run("rm", "--all")

    def mount(self, image: str) -> Path:
        """The root file system of a new container."""
        name = self._run("from", "--isolation", "chroot", image).strip().splitlines()[-1]
        return Path(self._run("mount", name).strip().splitlines()[-1])


CONTAINER: Final = """
set -e
root={root}
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs tmpfs "$root/tmp"
mount -t tmpfs -o mode=1777 tmpfs "$root/data"
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
exec /usr/sbin/chroot --userspec={uid}:0 --groups=0 "$root" {python} -c 'import os, sys; os.chdir("/app"); os.execvp(sys.argv[1], sys.argv[1:])' {words}
"""
"""A container's view: the root read-only, /tmp and /data writable, a PID namespace of its own, no root."""


@contextlib.contextmanager
def contained(
    root: Path, folder: Path, words: Sequence[str], environ: Mapping[str, str], *, uid: int
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in the file system of a container, as PID 1; its output is in `container.log`."""
    script = CONTAINER.format(root=root, uid=uid, python="/usr/local/bin/python3", words=shlex.join(words))
    with (folder / "container.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--propagation", "private", "sh", "-c", script],
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()
