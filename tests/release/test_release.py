"""A release's files: reproducible, whole, and serving in an environment that has nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import subprocess
import time
import venv
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tools import release

from narthex._version import __version__
from narthex.e2e.children import free_port
from tests.acceptance.program import clean_environment
from tests.services import missing
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]

ROOT: Final = Path(__file__).parents[2]


OPTIONAL_PEERS: Final = ("ai", "react", "vue", "@types/react")
USE_TS: Final = """
import type { UIMessage } from "ai";
import { Centrifuge } from "centrifuge";
import { narthexSocket, type SocketOptions } from "@narthex/client";
import { NarthexChatTransport, type RunMetadata } from "@narthex/client/ai-sdk";

import { useThread, type ThreadItem } from "@narthex/client/react";
import { usePresence } from "@narthex/client/vue";

const options: SocketOptions = { buffer: 3 };
export const Socket = narthexSocket(options);
type Message = UIMessage<{ narthex?: RunMetadata }>;
export const transport = new NarthexChatTransport<Message>({ url: "/agui/concierge" });
const client = new Centrifuge("ws://127.0.0.1:8000/ws");
export const items = (): readonly ThreadItem[] => useThread(client, null).items;
export const users = (): string[] => usePresence(client, () => null).value.users.map((user) => user.name);
export const loaded: Promise<Message[]> = transport.loadMessages("t");
"""
"""A program that takes every export of the npm package."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a release of the commit that is checked out; making it proves that two builds are equal."""
    out = tmp_path_factory.mktemp("release")
    release.release(out)
    return out


@pytest.fixture(scope="module")
def installed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment into which pip installed the wheel and what the lock pins, built from nothing."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=True)
    programs = home / "bin"
    pip = [str(programs / "python"), "-m", "pip", "install", "-q", "--only-binary", ":all:"]
    (wheel,) = made.glob("*.whl")
    for words in (["--require-hashes", "-r", str(ROOT / "requirements.lock")], ["--no-deps", str(wheel)]):
        subprocess.run([*pip, *words], check=True, capture_output=True, timeout=300)
    return programs


def bare(programs: Path) -> dict[str, str]:
    """An environment without Node, compilers, or anything else of this machine."""
    return clean_environment({"PATH": str(programs), "PYTHONPATH": ""})


def serving(programs: Path, directory: Path, port: int) -> subprocess.Popen[bytes]:
    """`narthex serve` of that environment."""
    return subprocess.Popen(
        [programs / "narthex", "serve", "--port", str(port)],
        cwd=directory,
        env=bare(programs),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_the_files_of_a_release(made: Path) -> None:
    """Sdist, wheel, bill of materials and provenance, each with its checksum."""
    names = {path.name for path in made.iterdir()}
    stem = f"narthex-{__version__}"
    assert names == {
        *(f"{stem}.tar.gz", f"{stem}-py3-none-any.whl", f"{stem}.cdx.json", f"{stem}.provenance.json"),
        "SHA256SUMS",
    }
    for line in (made / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == digest
    statement = json.loads((made / f"{stem}.provenance.json").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert statement["predicate"]["buildDefinition"]["externalParameters"]["commit"] == head.stdout.strip()
    assert {one["name"] for one in statement["subject"]} == {f"{stem}.tar.gz", f"{stem}-py3-none-any.whl"}


def test_the_bill_of_materials_names_what_is_installed_and_bundled(made: Path) -> None:
    """Valid CycloneDX; every pin of the lock, and the npm packages of the pages but not those that build them."""
    (path,) = made.glob("*.cdx.json")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(path.read_text()) is None
    bom: dict[str, Any] = json.loads(path.read_text())
    # actions/attest-sbom takes a file as CycloneDX only if it has all three.
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom["serialNumber"])
    packages = {(one["purl"].partition(":")[2].partition("/")[0], one["name"]) for one in bom["components"]}
    assert {("pypi", "starlette"), ("pypi", "msgspec"), ("npm", "preact"), ("npm", "centrifuge")} <= packages
    assert ("npm", "esbuild") not in packages
    pins = [
        line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
    ]
    assert {name.lower() for kind, name in packages if kind == "pypi"} >= {
        name.split("[")[0] for name in pins
    }


async def test_the_wheel_serves_without_node_and_without_a_compiler(installed: Path, tmp_path: Path) -> None:
    """`narthex serve` from an empty directory: ready, healthy, with its page."""
    port = free_port()
    program = serving(installed, tmp_path, port)
    try:
        async with httpx2.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as web:
            until = time.monotonic() + within(25)
            while True:
                try:
                    if (await web.get("/readyz")).status_code == 200:
                        break
                except httpx2.HTTPError:
                    assert program.poll() is None
                assert time.monotonic() < until
                await asyncio.sleep(0.05)
            assert (await web.get("/ws/health")).json()["status"] == "healthy"
            page = await web.get("/")
            assert (page.status_code, "narthex" in page.text) == (200, True)
    finally:
        program.terminate()
        assert program.wait(within(20)) == 0


@pytest.mark.parametrize(
    ("words", "environ", "extra"),
    [
        (["serve"], {"NARTHEX_BROKER_URL": "nats://127.0.0.1:4222"}, "narthex[nats]"),
        (["serve"], {"NARTHEX_BROKER_URL": "redis://127.0.0.1:6379"}, "narthex[redis]"),
        (["serve"], {"NARTHEX_STORE_URL": "postgresql://127.0.0.1/x"}, "narthex[postgres]"),
        (["serve", "--agent", "smollm"], {}, "narthex[llm]"),
        (["serve", "--reload"], {}, "narthex[reload]"),
        (["serve"], {"NARTHEX_ADMIN_KEY": "gcp-secret://projects/p/secrets/s"}, "narthex[gcp]"),
        (["test", "--env", "staging"], {}, "narthex["),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_missing_extra_is_named(
    words: list[str], environ: dict[str, str], extra: str, installed: Path, tmp_path: Path
) -> None:
    """Exit 78, and the command that installs it."""
    done = subprocess.run(
        [installed / "narthex", *words],
        cwd=tmp_path,
        env=bare(installed) | environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, f"pip install '{extra}" in done.stderr) == (78, True), done.stderr


def test_one_place_has_the_version() -> None:
    """The pages and the npm package have the Python package's, as npm writes it."""
    spelled = __version__.replace(".dev", "-dev.")
    for path in ("web/package.json", "web/packages/client/package.json"):
        assert json.loads((ROOT / path).read_text())["version"] == spelled, path


def test_the_npm_package_installs_from_its_tarball(made: Path, tmp_path: Path) -> None:
    """Npm takes it beside centrifuge; a program imports it, and the compiler finds its types."""
    modules = ROOT / "web/node_modules"
    if shutil.which("npm") is None or not modules.is_dir():
        missing("npm and web/node_modules", "apt-get install npm; npm ci in web/")
    (wheel,) = made.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "wheel", "zip")
    tarball = tmp_path / "wheel/narthex/web/static/narthex-client.tgz"
    app = tmp_path / "app"
    app.mkdir()
    (app / "package.json").write_text('{"type": "module", "private": true}')
    quiet = ["--offline", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    peer = modules / "centrifuge"
    subprocess.run(["npm", "install", *quiet, str(tarball), str(peer)], cwd=app, check=True, timeout=120)
    for kit in OPTIONAL_PEERS:  # as if the user had installed them; npm would fetch what they depend on
        there = app / "node_modules" / kit
        there.parent.mkdir(exist_ok=True)
        if not there.exists():
            there.symlink_to(modules / kit, target_is_directory=True)
    (app / "use.ts").write_text(USE_TS)
    compiler = [shutil.which("node") or "node", str(modules / "typescript/bin/tsc"), "--noEmit", "--strict"]
    settings = [
        "--module",
        "nodenext",
        "--moduleResolution",
        "nodenext",
        "--target",
        "es2022",
        "--lib",
        "es2022,dom",
    ]
    subprocess.run([*compiler, *settings, "--skipLibCheck", "use.ts"], cwd=app, check=True, timeout=120)
    script = (
        'import { narthexSocket } from "@narthex/client";'
        'import { NarthexChatTransport } from "@narthex/client/ai-sdk";'
        "process.stdout.write(`${typeof narthexSocket} ${typeof NarthexChatTransport}`)"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=app,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "function function", done.stderr
