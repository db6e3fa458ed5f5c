"""Prometheus' totals over two workers and two nodes are what a load run counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.program import running
from tests.alerting.load import Load
from tests.alerting.stack import stack

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]


async def test_totals_are_those_of_the_load_to_the_last_handshake(tmp_path: Path) -> None:
    """Handshakes by outcome, publications to subscribers, commands and connections, of three processes."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with (
        running(tmp_path / "one", {}, ("--workers", "2")) as workers,
        running(tmp_path / "two", {}) as node,
        Load() as load,
    ):
        targets = [f"127.0.0.1:{program.port}" for program in (workers, node)]
        async with stack(tmp_path / "prometheus", {"narthex": targets}) as prometheus:
            echoes = 0
            for program in (workers, node):
                token = program.token("ada")
                await load.touch(program.ws, token, 60)
                await load.touch(program.ws, "not-a-token", 25)
                first = await load.join(program.ws, token)
                thread_id = (await first.rpc("thread.create"))["thread_id"]
                others = [await load.join(program.ws, token) for _ in range(7)]
                for client in (first, *others):
                    assert "subscribe" in await client.call("subscribe", channel=f"thread:{thread_id}")
                for _ in range(20):
                    await first.rpc("echo", text="x")
                    echoes += 1
                await first.run("count to 30", thread_id)
            users = 'class!="probe"'
            handshakes = f"sum(narthex_handshakes_total{{{users}}})"
            expected = load.outcomes["admitted"] + load.outcomes["refused"]
            assert expected == 2 * (60 + 25 + 8)
            await prometheus.until(lambda: prometheus.number(handshakes), expected)
            for outcome in ("admitted", "refused"):
                found = await prometheus.number(
                    f'sum(narthex_handshakes_total{{outcome="{outcome}",{users}}})'
                )
                assert found == load.outcomes[outcome]
            await prometheus.until(
                lambda: prometheus.number("sum(narthex_handshake_seconds_count)"), expected
            )
            await prometheus.until(
                lambda: prometheus.number('sum(narthex_commands_total{method="rpc:echo",result="ok"})'),
                echoes,
            )
            await prometheus.until(
                lambda: prometheus.number('sum(narthex_connections_active{class="user"})'), len(load.clients)
            )
            await prometheus.until(
                lambda: prometheus.number("sum(narthex_deliveries_total)"),
                lambda: sum(client.pushes for client in load.clients),
            )
            assert sum(client.pushes for client in load.clients) > 2 * 8 * 20
            assert await prometheus.number("sum(narthex_runs_total)") == 2
            assert await prometheus.number("sum(narthex_events_lost_total)") == 0
            assert await prometheus.number("sum(narthex_undeclared_metrics_total)") == 0
            # The second node's exemplars are Prometheus' own now: the trace id of a refusal finds its log line.
            refused = await prometheus.exemplars('narthex_handshakes_total{outcome="refused"}')
            assert refused
            assert all(len(exemplar["labels"]["trace_id"]) == 32 for exemplar in refused)
