"""A guard under the command lines of servers, and narthex's own commands against it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from tests.acceptance.program import clean_environment
from tests.guard.servers import APP, command, free_port, serving
from tests.timing import within

pytestmark = pytest.mark.acceptance
ADMIN = "admin-key-0123456789abcdef"
SERVER = "uvicorn-websockets"
PROVIDER = {"NARTHEX_JWT_SECRET": "", "NARTHEX_ADMIN_KEY": ADMIN, "NARTHEX_EMBEDDED_PROVIDER": "on"}


async def run(words: list[str], environ: dict[str, str]) -> tuple[int, str, str]:
    """Run a command to its end: exit code and both outputs."""
    process = await asyncio.create_subprocess_exec(
        *words,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(environ),
    )
    async with asyncio.timeout(within(30)):
        out, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), errors.decode()


def narthex(*words: str) -> list[str]:
    """A narthex command line."""
    return [sys.executable, "-m", "narthex", *words]


async def test_the_commands_find_the_guard_s_store(tmp_path: Path) -> None:
    """`narthex token --guard` is admitted, `keys --guard` lists and rotates; without the flag an error names it."""
    data = str(tmp_path / "data")
    environ = {"ENVIRONMENT": "testing", "NARTHEX_DATA_DIR": data} | PROVIDER
    environ.pop("NARTHEX_JWT_SECRET")
    async with serving(SERVER, "starlette", tmp_path, PROVIDER) as guard:
        async with httpx2.AsyncClient(base_url=guard.http, trust_env=False) as client:
            assert (await client.get("/ws/beacon")).json() == {"beacon": "narthex", "wire": "application"}
        code, out, errors = await run(narthex("token", "--guard", "--sub", "ann"), environ)
        assert code == 0, errors
        headers = {"Authorization": f"Bearer {out.strip()}"}
        async with connect(guard.url, additional_headers=headers, proxy=None) as socket:
            await socket.send("whoami")
            assert json.loads(await socket.recv())["user"] == "ann"
            code, out, _ = await run(narthex("token", "inspect", "--guard", "--json", out.strip()), environ)
            assert (code, json.loads(out)["admitted"]) == (0, True)
            for words in (("token",), ("token", "inspect", "x"), ("keys", "list")):
                code, out, errors = await run(narthex(*words), environ)
                assert (code, "Add --guard" in out + errors) == (78, True), (words, out, errors)
            code, out, errors = await run(narthex("keys", "list", "--guard", "--json"), environ)
            before = len(json.loads(out))
            assert (code, before > 0) == (0, True), errors
            code, out, errors = await run(narthex("keys", "rotate", "--guard", "--json"), environ)
            assert (code, len(json.loads(out)) > 0) == (0, True), errors
            command = narthex("keys", "rotate", "--guard", "--purpose", "guard", "--json")
            code, out, errors = await run(command, environ)
            assert (code, {key["purpose"] for key in json.loads(out)}) == (0, {"guard"}), errors
            code, out, errors = await run(narthex("drain", guard.http, "--wait", "0"), environ)
            assert code == 0, errors
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), within(15))
            assert socket.close_code == 3001
    assert not (tmp_path / "data" / "narthex.db").exists()


@pytest.mark.parametrize("server", ["uvicorn-websockets", "hypercorn"])
async def test_a_wrong_configuration_ends_the_server_with_78(server: str, tmp_path: Path) -> None:
    """The server's own command line exits 78 when it imports the application, after every problem was printed."""
    environ = {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "NARTHEX_TEST_REACHED": str(tmp_path / "reached"),
        "NARTHEX_DATA_DIR": str(tmp_path / "data"),
        "ENVIRONMENT": "production",
        "E2E_TESTING": "1",
        "NARTHEX_JWT_LEEWAY_S": "x",
    }
    code, _, errors = await run(command(server, free_port()), environ)
    assert code == 78, (APP, errors)
    for named in ("E2E_TESTING", "NARTHEX_JWT_LEEWAY_S", "NARTHEX_ALLOWED_HOSTS"):
        assert named in errors


@pytest.mark.parametrize(("expected", "status"), [("ping", 200), ("pong", 503)])
async def test_a_probe_uses_the_endpoint_over_loopback(expected: str, status: int, tmp_path: Path) -> None:
    """Health's handshake check goes through the application's endpoint, and fails when that answers wrongly."""
    async with serving(SERVER, "starlette", tmp_path, {"NARTHEX_TEST_PROBE": expected}) as guard:
        async with httpx2.AsyncClient(base_url=guard.http, trust_env=False) as client:
            answer = await client.get("/ws/health", timeout=within(10))
        assert answer.status_code == status
        detail = answer.json()["checks"]["handshake"]["detail"]
        assert "endpoint" in detail
        assert ("answered the probe" in detail) is (status == 200)
        assert "reached" in guard.reached
