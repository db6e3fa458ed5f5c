"""`narthex check --connect` against real engines and issuers: the results, and no side effects."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from joserfc.jwk import ECKey
from starlette.applications import Starlette

from narthex.e2e.children import free_port
from narthex.settings import load
from narthex.wiring.connection_checks import ConnectionCheck, check_connections
from tests import services
from tests.acceptance.program import clean_environment
from tests.adapters.agents.serving import served
from tests.adapters.tokens.http_issuer import HttpIssuer
from tests.timing import within


async def trials(tmp_path: Path, environ: dict[str, str]) -> dict[str, ConnectionCheck]:
    """The results, by kind and name."""
    async with asyncio.timeout(within(30)):
        found = await check_connections(load({"data_dir": tmp_path / "data"}, environ))
    return {f"{trial.kind} {trial.name}".strip(): trial for trial in found}


async def test_postgresql_is_asked_and_not_changed(tmp_path: Path) -> None:
    """Reached before and after it has tables; the check makes none; a wrong database is named."""
    import asyncpg

    with services.data_directory("trial") as folder:
        server = services.PostgresServer(folder / "data")
        server.initialise()
        server.start()
        try:
            environ = {"NARTHEX_STORE_URL": server.url}
            found = (await trials(tmp_path, environ))["store"]
            assert found.ok, found
            assert "without narthex's tables" in found.detail
            connection = await asyncpg.connect(server.url)
            try:
                sql = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
                assert await connection.fetchval(sql) == 0
            finally:
                await connection.close()
            environ = {"NARTHEX_STORE_URL": server.url.replace("/postgres", "/nowhere")}
            refused = (await trials(tmp_path, environ))["store"]
            assert not refused.ok
            assert "refused the credentials or the database" in refused.detail
        finally:
            server.stop()


async def test_nats_and_redis_are_asked_and_not_changed(tmp_path: Path) -> None:
    """JetStream works and no stream is created; the append-only file is reported; NATS without JetStream fails."""
    nats = services.NatsServer(tmp_path / "nats")
    valkey = services.ValkeyServer(tmp_path / "valkey")
    bare = services.NatsServer(tmp_path / "bare")
    bare.command = lambda: [bare._binary, "-a", bare.host, "-p", str(bare.port)]  # type: ignore[method-assign]
    try:
        for server in (nats, valkey, bare):
            server.start()
        for _ in range(2):
            found = (await trials(tmp_path, {"NARTHEX_BROKER_URL": nats.url}))["broker"]
            assert found.ok, found
            assert "with JetStream, 0 streams" in found.detail
        found = (await trials(tmp_path, {"NARTHEX_BROKER_URL": valkey.url}))["broker"]
        assert found.ok, found
        assert "append-only file: everysec" in found.detail
        refused = (await trials(tmp_path, {"NARTHEX_BROKER_URL": bare.url}))["broker"]
        assert not refused.ok
        assert "JetStream does not" in refused.detail
    finally:
        for server in (nats, valkey, bare):
            server.kill()


async def test_issuers_and_agents_are_asked(tmp_path: Path) -> None:
    """One line each; one that does not respond is named with its remedy, and the others are reported all the same."""
    async with HttpIssuer() as issuer, served(Starlette()) as model:
        key = ECKey.generate_key("P-256", private=False)
        issuer.documents["/jwks"] = {"keys": [key.as_dict() | {"kid": "k", "use": "sig", "alg": "ES256"}]}
        config = tmp_path / "narthex.toml"
        config.write_text(
            f'agents = ["there=openai+{model}/v1#m", "away=openai+http://127.0.0.1:{free_port()}/v1#m"]\n'
            f'[[issuers]]\nname = "good"\nissuer = "https://good.example"\njwks_url = "{issuer.url}/jwks"\n'
            f'[[issuers]]\nname = "gone"\nissuer = "https://gone.example"\njwks_url = "{issuer.url}/nothing"\n'
        )
        async with asyncio.timeout(within(30)):
            found = {
                trial.name: trial for trial in await check_connections(load({}, {}, config)) if trial.name
            }
    assert {name: trial.ok for name, trial in found.items()} == {
        "good": True, "gone": False, "there": True, "away": False,
    }  # fmt: skip
    assert found["good"].detail.startswith("1 key(s)")
    assert "404" in found["gone"].detail
    assert not found["gone"].detail.endswith("..")
    assert "cannot be reached" in found["away"].detail
    assert all(trial.remedy for trial in found.values() if not trial.ok)


def check(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`narthex check --connect`."""
    return subprocess.run(
        [sys.executable, "-m", "narthex", "check", "--connect", "--data-dir", str(folder / "data"), *words],
        capture_output=True,
        text=True,
        cwd=folder,
        env=clean_environment(environ),
        timeout=within(40),
        check=False,
    )


def test_the_command_exits_69_for_what_does_not_answer(tmp_path: Path) -> None:
    """With the table on stdout, the remedy on stderr, and the password in neither."""
    secret = "a-canary-Passw0rd"
    environ = {
        "NARTHEX_BROKER_URL": f"redis://:{secret}@127.0.0.1:{free_port()}/0",
        "NARTHEX_STORE_URL": f"postgresql://u:{secret}@127.0.0.1:{free_port()}/d",
    }
    done = check(tmp_path, **environ)
    assert done.returncode == 69, done.stderr
    assert "FAIL broker" in done.stdout
    assert "FAIL store" in done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 2
    assert secret not in done.stdout + done.stderr
    assert not (tmp_path / "data").exists()
    done = check(tmp_path, "--json", **environ)
    found = json.loads(done.stdout)
    assert (done.returncode, found["ok"]) == (69, False)
    assert [one["ok"] for one in found["connections"]] == [False, False]


@pytest.mark.parametrize("content", [b"this is no database, but long enough to be looked at" * 100, b""])
def test_an_embedded_file_is_looked_at(content: bytes, tmp_path: Path) -> None:
    """A damaged one is named before serve would fail on it; a good one is not changed."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "narthex.db").write_bytes(content)
    done = check(tmp_path)
    if content:
        assert done.returncode == 69
        assert "narthex.db" in done.stderr
        assert "move it aside" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        with sqlite3.connect(data / "narthex.db") as connection:
            assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
