"""`narthex top`, `connections` and `trace` against the real program."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from narthex.bench import baseline
from tests.acceptance.fleet import ADMIN_KEY
from tests.acceptance.program import Program, shared
from tests.reports.samples import bench_report
from tests.timing import within

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One gateway."""
    with shared(tmp_path_factory.mktemp("operator"), {"NARTHEX_ADMIN_KEY": ADMIN_KEY}) as program:
        yield program


async def test_list_trace_disconnect(gateway: Program) -> None:
    """A user is found, traced and disconnected; `top` has the same numbers."""
    headers = {"Authorization": f"Bearer {gateway.token('ada')}"}
    async with connect(gateway.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send('{"id":1,"connect":{"name":"js","version":"5.8.0"}}')
        await socket.recv()
        listed = await asyncio.to_thread(gateway.run, "connections", "list", gateway.http, "--json")
        (found,) = json.loads(listed.stdout)["connections"]
        assert (found["user"], found["library"]) == ("ada", "js 5.8.0")
        shown = await asyncio.to_thread(gateway.run, "connections", "list", gateway.http, "--user", "ada")
        assert found["client"] in shown.stdout
        top = await asyncio.to_thread(gateway.run, "top", gateway.http, "--once", "--json")
        assert json.loads(top.stdout)["connections"] == 1
        assert top.returncode == 0

        words = ("trace", gateway.http, "--user", "ada", "--for", "4s", "--json")
        tracing = asyncio.create_task(asyncio.to_thread(gateway.run, *words))
        while not tracing.done():
            await socket.send('{"id":2,"rpc":{"method":"time","data":{}}}')
            await socket.recv()
            await asyncio.wait([tracing], timeout=0.2)
        entries = [json.loads(text) for text in (await tracing).stdout.splitlines()]
        assert {("in", "rpc"), ("out", "reply")} <= {(one["direction"], one.get("kind")) for one in entries}
        assert entries[-1]["body"] == "The trace ended."

        done = await asyncio.to_thread(
            gateway.run, "connections", "disconnect", gateway.http, "--user", "ada"
        )
        assert done.returncode == 0, done.stderr
        async with asyncio.timeout(within(10)):
            await socket.wait_closed()
        assert socket.close_code == 3503


async def test_figures_of_a_bench_are_kept_for_the_dashboard(gateway: Program, tmp_path: Path) -> None:
    """`narthex bench --post` sends them, also those of a saved report."""
    saved = tmp_path / "after.json"
    baseline.save(bench_report(), saved)
    done = await asyncio.to_thread(gateway.run, "bench", "--read", str(saved), "--post", gateway.http)
    assert done.returncode == 0, done.stderr
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    (kept,) = (await gateway.get("/api/v1/operator/baselines", headers=headers)).json()["baselines"]
    assert kept["figures"] == baseline.figures_of(bench_report())
    assert f"posted {len(kept['figures'])} figures" in done.stderr


def test_errors_name_the_remedy_and_exit_codes(gateway: Program) -> None:
    """No key and a wrong URL are usage, a wrong key a failure, no server unreachable."""
    no_key = gateway.run("top", gateway.http, "--once", env={})
    assert no_key.returncode == 2
    assert "NARTHEX_ADMIN_KEY" in no_key.stderr
    assert gateway.run("top", "ftp://x", "--once").returncode == 2
    wrong = gateway.run("connections", "list", gateway.http, env={"NARTHEX_ADMIN_KEY": "wrong"})
    assert wrong.returncode == 1
    assert "remedy" in wrong.stderr
    assert gateway.run("top", "http://127.0.0.1:1", "--once").returncode == 69
