"""The alerts that need more time or servers than CI has (`-m soak`), and an hour of healthy load, compressed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import nats
import pytest
from websockets.asyncio.client import connect

from narthex.adapters.telemetry.alerts import ALERTS
from tests.acceptance.fleet import engines, shared
from tests.acceptance.program import Program, running
from tests.alerting.load import Load
from tests.alerting.stack import stack
from tests.alerting.test_faults import ADMIN, CHOSEN, ROOT, Faults, broken_site, names_its_runbook
from tests.doctor.failing_servers import healthy
from tests.doctor.scripted import Authority, serving
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.soak, pytest.mark.timeout(900)]

FAULTY = """
import os
from narthex.settings import load
from narthex.wiring.gateway import GatewayServer

class Raises:
    def verify(self, token, *, now, traffic):
        raise RuntimeError("as the test wants it")
    async def check(self):
        from narthex.ports.tokens import VerifierStatus
        return VerifierStatus(status="healthy", detail="it raises")
    async def start(self): ...
    async def stop(self): ...

GatewayServer(load({"port": int(os.environ["THE_PORT"])}, os.environ, None), verifier=Raises()).run()
"""


async def test_a_stalled_loop_a_slow_broker_and_a_lost_log(tmp_path: Path) -> None:
    """A blocking agent, a broker that stands still now and then, clients that storm, a purged log, and no gateway."""
    async with broken_site(tmp_path) as (site, prometheus):
        hook, patience = prometheus.webhook, within(60)
        await site.fail_runs("blocks")
        await hook.wait({"NarthexLoopLag", "NarthexBufferNearLimit"}, timeout_s=patience)
        await site.faults.mend()

        await site.load.join(site.gateway.ws, site.issuer.token("storm"))
        site.faults.keep(lambda: site.load.touch(site.idle.ws, site.idle.token("ada"), 200, at_once=16), 0.0)
        await hook.wait({"NarthexReconnectStorm"}, timeout_s=patience)
        await site.faults.mend()

        client = await site.load.join(site.gateway.ws, site.issuer.token("slow"))

        async def stand_still() -> None:
            site.nats.pause()
            asking = asyncio.gather(
                *(client.call("rpc", method="thread.create", data={}) for _ in range(4)),
                return_exceptions=True,
            )
            await asyncio.sleep(0.9)
            site.nats.resume()
            await asking

        site.faults.keep(stand_still, 0.05)
        await hook.wait({"NarthexEngineSlow"}, timeout_s=patience)
        await site.faults.mend()

        broker = await nats.connect(site.nats.url)
        thread_id = (await client.rpc("thread.create"))["thread_id"]
        assert "subscribe" in await client.call("subscribe", channel=f"thread:{thread_id}")
        await client.run("count to 5", thread_id)
        stream = broker.jetstream()
        for found in await stream.streams_info():
            await stream.delete_stream(str(found.config.name))
        await hook.wait({"NarthexEventsLost"}, timeout_s=patience)
        await broker.close()

        for program in (site.gateway, site.idle):
            await asyncio.to_thread(program.kill)
        prometheus.targets["narthex"] = []
        prometheus.retarget()
        seen = {
            *("NarthexLoopLag", "NarthexBufferNearLimit", "NarthexReconnectStorm", "NarthexEngineSlow"),
            *("NarthexEventsLost", "NarthexNoData"),
        }
        await hook.wait(seen, timeout_s=patience)
        assert all(names_its_runbook(hook.fired[name]) for name in seen)
        prometheus.targets["narthex"] = [f"127.0.0.1:{program.port}" for program in (site.gateway, site.idle)]
        prometheus.retarget()
        await site.heal()
        await hook.wait(seen, resolved=True, timeout_s=within(60))


async def test_slow_clients_bugs_stuck_runs_and_a_failing_probe(tmp_path: Path) -> None:
    """A client that does not read, a verifier that raises, a queue without workers, a canary at a bad certificate."""
    for name in ("slow", "bug", "queue"):
        (tmp_path / name).mkdir()
    env = {"NARTHEX_ADMIN_KEY": ADMIN, "NARTHEX_MAX_LAG_S": "1", "NARTHEX_MAX_PENDING_BYTES": "100000"}
    async with contextlib.AsyncExitStack() as stacked:
        load = await stacked.enter_async_context(Load())
        slow = await stacked.enter_async_context(running(tmp_path / "slow", env))
        broker, _, store_url = await stacked.enter_async_context(engines())
        queue_env = shared(broker.url, store_url)
        queue = await stacked.enter_async_context(running(tmp_path / "queue", queue_env, ("--no-agents",)))
        faults = Faults()
        stacked.push_async_callback(faults.mend)
        bug = await stacked.enter_async_context(faulty(tmp_path / "bug"))
        probe_port, file = await stacked.enter_async_context(probe(tmp_path))
        targets = {
            "narthex": [f"127.0.0.1:{program.port}" for program in (slow, queue, bug)],
            "probe": [f"127.0.0.1:{probe_port}"],
        }
        prometheus = await stacked.enter_async_context(stack(tmp_path / "prometheus", targets, CHOSEN))
        hook = prometheus.webhook

        client = await load.join(queue.ws, queue.token("ada"))
        thread_id = (await client.rpc("thread.create"))["thread_id"]
        await client.rpc("run.start", text="hi", thread_id=thread_id, client_message_id="m")
        faults.keep(lambda: load.touch(bug.ws, "a.b.c", 1), 0.3)
        faults.keep(lambda: ignore_the_answers(slow), 0.2)
        seen = {
            *("NarthexRunsStuck", "NarthexBugs", "NarthexSlowConsumers", "NarthexProbeFailing"),
            "NarthexCertificateExpiring",
        }
        await hook.wait(seen, timeout_s=within(60))
        assert all(names_its_runbook(hook.fired[name]) for name in seen)
        await faults.mend()
        await asyncio.to_thread(queue.end)
        queue.arguments = ()
        await queue.start()
        file.unlink()
        await hook.wait(seen, resolved=True, timeout_s=within(60))


@contextlib.asynccontextmanager
async def faulty(directory: Path) -> AsyncIterator[Program]:
    """A gateway embedded in a program whose verifier raises."""
    (directory / "app.py").write_text(FAULTY)
    program = Program(directory, {})
    program.env = {"THE_PORT": str(program.port), "NARTHEX_DATA_DIR": str(directory / "data")}
    program.command = lambda *_: [*Program.command(program)[:1], str(directory / "app.py")]  # type: ignore[method-assign]
    try:
        await program.start()
        yield program
    finally:
        await asyncio.to_thread(program.end)


@contextlib.asynccontextmanager
async def probe(directory: Path) -> AsyncIterator[tuple[int, Path]]:
    """`narthex probe` at a server whose certificate ends in three days and which is no narthex; its textfile served."""
    authority, file = Authority(directory), directory / "probe.prom"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            body = file.read_bytes() if file.exists() else b""
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n" + body)
            await writer.drain()
        writer.close()

    async with serving(healthy, authority.context("127.0.0.1", begin_days=-1, end_days=3)) as port:
        program = Program(directory, {})
        words = ["probe", f"wss://127.0.0.1:{port}/ws", "--ca-file", str(authority.root), "--count", "1"]
        await asyncio.to_thread(program.run, *words, "--prometheus", str(file))
        assert "narthex_probe_certificate_expiry" in file.read_text()
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1], file


async def ignore_the_answers(program: Program) -> None:
    """Follow a thread and read nothing while it is flooded, until the server closes the connection."""
    token = program.token("ada")
    headers = {"Authorization": f"Bearer {token}"}
    async with Load() as load:
        other = await load.join(program.ws, token)
        thread_id = (await other.rpc("thread.create"))["thread_id"]
        async with connect(
            program.ws, additional_headers=headers, proxy=None, max_queue=1, close_timeout=0.1
        ) as socket:
            await socket.send('{"id":1,"connect":{}}')
            await socket.recv()
            await socket.send(f'{{"id":2,"subscribe":{{"channel":"thread:{thread_id}"}}}}')
            await socket.recv()
            body: dict[str, Any] = {"channel": f"thread:{thread_id}", "data": "x" * 60_000}
            for _ in range(200):
                await program.post("/api/v1/publish", headers={"Authorization": f"Bearer {ADMIN}"}, json=body)


async def test_nothing_fires_in_an_hour_of_healthy_load_with_a_rolling_deploy(tmp_path: Path) -> None:
    """Two nodes on NATS and PostgreSQL at the default thresholds; each is replaced once. An hour is six minutes here.

    Not shorter: percentiles need samples. In 6 s, a fiftieth of five minutes, an event loop's lag has 60 of them, so
    that its 99th percentile is the worst one, and a neighbour that takes the CPU for 0.1 s is an alert.
    """
    async with engines() as (broker, _, store_url), Load() as load:
        env = shared(broker.url, store_url)

        def program(name: str) -> Program:
            (tmp_path / name).mkdir()
            return Program(tmp_path / name, env)

        nodes = [program("a"), program("b")]
        users: asyncio.Task[None] | None = None
        answered = 0
        try:
            await asyncio.gather(*(node.start() for node in nodes))
            targets = [f"127.0.0.1:{node.port}" for node in nodes]
            async with stack(
                tmp_path / "prometheus", {"narthex": targets}, scale=0.1, scrape_ms=1000
            ) as prometheus:
                # The smallest plan allows 30 messages a minute.
                tokens = cycle([nodes[0].token(name) for name in ("ada", "bob", "eve", "kim")])

                async def mixed() -> None:
                    nonlocal answered
                    while True:
                        node, token = nodes[answered % 2], next(tokens)
                        await load.touch(node.ws, token, 6, at_once=2)
                        await load.touch(node.ws, "not-a-token", 1)
                        async with Load() as chat:
                            client = await chat.join(node.ws, token)
                            thread_id = (await client.rpc("thread.create"))["thread_id"]
                            await client.call("subscribe", channel=f"thread:{thread_id}")
                            await client.run("count to 10", thread_id)
                        answered += 1
                        await asyncio.sleep(0.5)  # a healthy load does not fill the machine

                users = asyncio.create_task(mixed())
                for at, name in enumerate(("c", "d")):
                    await asyncio.sleep(120)
                    fresh = program(name)
                    await fresh.start()
                    old, nodes[at] = nodes[at], fresh
                    prometheus.targets["narthex"] = [f"127.0.0.1:{node.port}" for node in nodes]
                    prometheus.retarget()
                    # A platform takes an instance out before it ends it; Prometheus takes 5 s to follow.
                    gone = f'count(up{{instance="127.0.0.1:{old.port}"}}) or vector(0)'
                    await prometheus.until(partial(prometheus.number, gone), 0)
                    await asyncio.to_thread(old.end)
                await asyncio.sleep(120)
                fired = await prometheus.query('count_over_time(ALERTS{alertstate="firing"}[10m])')
                named = sorted({" ".join(found["metric"].values()) for found in fired})
                assert not named, "\n".join(named)  # whole: pytest shortens a comparison
                assert prometheus.webhook.fired == {}
                assert not users.done(), users.exception()  # a healthy load meets no error
                assert answered > 100
                # Of the nodes that serve now.
                assert (await prometheus.number("sum(narthex_runs_total)") or 0) > 5
        finally:
            if users is not None:
                users.cancel()
                await asyncio.gather(users, return_exceptions=True)
            for node in nodes:
                await asyncio.to_thread(node.end)


def test_every_alert_has_an_induced_fault() -> None:
    """An alert that no test fires on the real program is noticed here."""
    texts = [
        (ROOT / "tests" / "alerting" / f"{name}.py").read_text()
        for name in ("test_faults", "test_rare_faults")
    ]
    assert [alert.name for alert in ALERTS if not any(f'"{alert.name}"' in text for text in texts)] == []
