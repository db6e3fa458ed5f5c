"""The Pythons of the classifiers: the base install serves on each that is here, and the core's tests pass on it.

The interpreter that runs the suite is not among them: every other test is its test.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

import pytest
from websockets.asyncio.client import connect

from tests.acceptance.program import Program, clean_environment
from tests.timing import within

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MINORS: Final = [
    match[1] for line in PROJECT["classifiers"] if (match := re.fullmatch(r".*:: (3\.\d+)", line)) is not None
]
TEST_PACKAGES: Final = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "standardwebhooks", "protobuf",
    "ag-ui-protocol", "centrifuge-python")  # fmt: skip


def interpreters() -> dict[str, str]:
    """By version: the other interpreters of the classifiers that are here, on the PATH or installed by pyenv or uv."""
    found: dict[str, str] = {}
    homes = (Path.home() / ".pyenv" / "versions", Path.home() / ".local" / "share" / "uv" / "python")
    for minor in MINORS:
        if minor == f"{sys.version_info.major}.{sys.version_info.minor}":
            continue
        installed = [str(path) for home in homes for path in sorted(home.glob(f"*{minor}.*/bin/python3"))]
        for candidate in (shutil.which(f"python{minor}"), *installed):
            if candidate is None:
                continue
            asked = [candidate, "-c", "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"]
            done = subprocess.run(asked, capture_output=True, text=True, check=False)
            if done.stdout.strip() == minor:  # pyenv's shims exist for versions that it does not have
                found[minor] = candidate
                break
    return found


OTHERS: Final = interpreters()
NEWEST: Final = list(OTHERS)[-1:] or [f"{sys.version_info.major}.{sys.version_info.minor}"]


def environment(version: str, home: Path, *words: str) -> str:
    """The Python of an environment that has what the lock pins, from wheels only, and the packages of `words`."""
    subprocess.run([OTHERS.get(version, sys.executable), "-m", "venv", home], check=True, timeout=within(60))
    python = str(home / "bin" / "python")
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--only-binary", ":all:"]
    locked = ["--require-hashes", "-r", str(ROOT / "requirements.lock")]
    for packages in (locked, list(words)):
        if packages:
            subprocess.run([*pip, *packages], check=True, capture_output=True, timeout=within(200))
    return python


async def serves(version: str, folder: Path) -> None:
    """The gateway starts, is healthy, and a client connects and gets its echo."""
    python = environment(version, folder / "environment")

    class Served(Program):
        def command(self, *words: str) -> list[str]:
            """With that Python, on the sources of this checkout."""
            return [python, "-m", "narthex", *words]

    (folder / "work").mkdir()
    program = Served(folder / "work", {"PYTHONPATH": str(ROOT / "src")})
    try:
        await program.start()
        assert (await program.get("/ws/health")).json()["status"] == "healthy"
        token = program.token("ada")
        headers = {"Authorization": f"Bearer {token}"}
        async with connect(program.ws, proxy=None, additional_headers=headers) as socket:
            await socket.send('{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"echo","data":{"hello":1}}}')
            answered = ""
            while '"id":2' not in answered:
                answered += str(await socket.recv())
            assert '"hello":1' in answered
        assert program.terminate() == 0
    finally:
        program.end()


@pytest.mark.acceptance
@pytest.mark.timeout(300)
@pytest.mark.parametrize("version", NEWEST)
async def test_the_newest_python_here_serves(version: str, tmp_path: Path) -> None:
    """What the lock pins installs from wheels there, and a client talks to the gateway."""
    await serves(version, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("version", list(OTHERS) or NEWEST)
def test_every_python_here_serves_and_passes_the_core_tests(version: str, tmp_path: Path) -> None:
    """Also the tests of the domain and of the protocol."""
    asyncio.run(serves(version, tmp_path))
    lock = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    pins = [
        match[0] for name in TEST_PACKAGES if (match := re.search(rf"^{name}==[^\s;]+", lock, re.MULTILINE))
    ]
    assert len(pins) == len(TEST_PACKAGES)
    python = str(tmp_path / "environment" / "bin" / "python")
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *pins]
    subprocess.run(install, check=True, capture_output=True, timeout=within(200))
    words = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/domain", "tests/protocol"]
    env = clean_environment({"PYTHONPATH": str(ROOT / "src")})
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, cwd=ROOT, env=env, timeout=within(500)
    )
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_classifiers_are_the_versions_that_ci_can_choose() -> None:
    """`.ci/run` looks for no other Python than a classifier names, and `requires-python` begins with the first."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    chosen = set(re.findall(r"python(3\.\d+)", script))
    assert chosen <= set(MINORS)
    assert PROJECT["requires-python"] == f">={MINORS[0]}"
