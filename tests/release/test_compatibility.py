"""An upgrade breaks no one's scripts, settings or data: today's program against what the last release offered."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest

from narthex.settings import load
from tests.acceptance.fleet import engines
from tests.acceptance.program import Program
from tests.release.contracts import contracts
from tests.services import missing
from tests.timing import within

ROOT: Final = Path(__file__).parents[2]
RELEASED: Final = "03a2c35"
"""The commit of release 0.1.0."""
OFFERED: Final[dict[str, Any]] = json.loads(Path(__file__).with_name("released_0_1_0.json").read_text())

NARTHEX_TOML: Final = """
port = 8080
allowed_origins = ["https://app.example.com"]
allowed_hosts = ["chat.example.com"]
trusted_proxies = ["10.0.0.0/8", "1"]
agents = ["narthex.adapters.agents.concierge:concierge"]
max_message_bytes = 32768
ping_interval_s = 20
drain_grace_s = 8.5
log_level = "debug"

[[issuers]]
name = "google"
discovery = "https://accounts.google.com"
audience = ["chat"]

[issuers.claims]
tenant = "hd"

[[users]]
email = "ada@example.com"
plan = "early"

[plans.free]
connections = 5
"""


def test_every_name_that_the_release_offered_is_still_there() -> None:
    """Settings with their variables and flags, members of tables, commands with their flags, metrics with their labels,
    refusals with their status and close code, routes. A change needs a reason and a note in the changelog.
    """
    now = contracts()
    lost: list[str] = []
    for kind in ("tables", "commands"):
        for name, members in OFFERED[kind].items():
            lost += [
                f"{kind} {name}: {member}" for member in members if member not in now[kind].get(name, ())
            ]
    for name, offered in OFFERED["settings"].items():
        kept = now["settings"].get(name, {"variables": [], "flag": ""})
        lost += [f"variable {one}" for one in offered["variables"] if one not in kept["variables"]]
        lost += [f"flag {offered['flag']}"] if offered["flag"] != kept["flag"] else []
    for kind in ("metrics", "refusals"):
        lost += [f"{kind} {name}" for name, facts in OFFERED[kind].items() if now[kind].get(name) != facts]
    lost += [f"route {path}" for path in OFFERED["routes"] if path not in now["routes"]]
    assert lost == []


def test_a_settings_file_of_the_release_loads(tmp_path: Path) -> None:
    """Every kind of value, and the tables; a development file with an issuer and users."""
    file = tmp_path / "narthex.toml"
    file.write_text(NARTHEX_TOML)
    settings = load({}, {}, file)
    assert (settings.port, settings.log_level, settings.drain_grace_s) == (8080, "debug", 8.5)
    assert settings.plan_table()["free"].connections == 5


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the release."""
    archive = subprocess.run(["git", "archive", RELEASED, "src"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        missing(f"commit {RELEASED}", "git fetch --unshallow")
    directory = tmp_path_factory.mktemp("released")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as found:
        found.extractall(directory, filter="data")
    return directory / "src"


@pytest.fixture(params=["embedded", "shared"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, str]]:
    """Variables of the engines: SQLite in the data directory, or NATS and PostgreSQL."""
    if request.param == "embedded":
        yield {}
        return
    async with engines() as (nats, _, store_url):
        yield {"NARTHEX_BROKER_URL": nats.url, "NARTHEX_STORE_URL": store_url}


@pytest.mark.acceptance
async def test_data_go_forward_and_one_version_back(
    released: Path, engine: dict[str, str], tmp_path: Path
) -> None:
    """The release wrote them, today's program migrates them and goes on, and after a roll-back the release reads on."""
    old_env = engine | {"PYTHONPATH": str(released)}
    said: list[str] = []
    for number, env in enumerate((old_env, engine, old_env, engine)):
        program = Program(tmp_path, env)
        try:
            await program.start()
            version = (await program.get("/ws/config")).json()["version"]
            assert (version == "0.1.0") is (env is old_env)
            said.append(f"message {number}")
            await _ask(program, f"{number}", said[-1])
            assert await _messages(program) == sorted(said)
        finally:
            await asyncio.to_thread(program.end)


@pytest.mark.acceptance
async def test_the_release_serves_beside_today_s_program(released: Path, tmp_path: Path) -> None:
    """During a rolling deploy each of the two takes and runs messages, and shows those of the other."""
    async with engines() as (nats, _, store_url):
        env = {"NARTHEX_BROKER_URL": nats.url, "NARTHEX_STORE_URL": store_url}
        old = Program(tmp_path, env | {"PYTHONPATH": str(released)})
        new = Program(tmp_path, env)
        try:
            await old.start()
            await new.start()
            for number, program in enumerate((old, new, old, new)):
                await _ask(program, f"{number}", f"message {number}")
            expected = [f"message {number}" for number in range(4)]
            assert await _messages(old) == await _messages(new) == expected
        finally:
            await asyncio.to_thread(old.end)
            await asyncio.to_thread(new.end)


async def _ask(program: Program, name: str, text: str) -> None:
    """Say something to the agent, and wait for the end of its run."""
    done = await program.post(
        "/agui/concierge",
        timeout=within(30),
        headers=_bearer(program),
        json={
            "threadId": f"thread-{name}",
            "runId": f"run-{name}",
            "messages": [{"id": f"message-{name}", "role": "user", "content": text}],
            "tools": [],
            "context": [],
            "state": {},
            "forwardedProps": {},
        },
    )
    assert "RUN_FINISHED" in done.text, done.text[:500]


async def _messages(program: Program) -> list[str]:
    """What the user wrote, in all threads."""
    bearer = _bearer(program)
    threads = (await program.get("/api/v1/threads", headers=bearer)).json()["threads"]
    texts: list[str] = []
    for thread in threads:
        one = (await program.get(f"/api/v1/threads/{thread['thread_id']}", headers=bearer)).json()
        texts += [message["content"] for message in one["messages"] if message["role"] == "user"]
    return sorted(texts)


def _bearer(program: Program) -> dict[str, str]:
    return {"Authorization": f"Bearer {program.token('ada')}"}
