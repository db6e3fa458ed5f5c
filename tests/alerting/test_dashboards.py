"""Every query of the Grafana dashboards gives data on a real Prometheus that scraped a real gateway under load."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from narthex.adapters.telemetry.alerts import ALERTS
from narthex.adapters.telemetry.catalogue import CATALOGUE
from narthex.adapters.telemetry.dashboards import GROUPS, RARE
from tests.acceptance.program import running
from tests.alerting.keys import Issuer
from tests.alerting.load import Client, Load
from tests.alerting.stack import SCALE, stack

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
KEY = "an-end-to-end-key-for-the-dashboards-0123"
ADMIN = "an-admin-key-for-the-dashboards-0123"
ROUNDS = 6


def boards() -> dict[str, Any]:
    """The repository's dashboards."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(GRAFANA.glob("*.json"))}


def queries() -> list[tuple[str, str, str]]:
    """Dashboard, panel and PromQL of every query."""
    return [
        (name, panel["title"], target["expr"])
        for name, board in boards().items()
        for panel in board["panels"]
        for target in panel["targets"]
    ]


def test_every_metric_and_alert_is_on_a_dashboard() -> None:
    """And Grafana can tell the panels apart."""
    assert set(boards()) == set(GROUPS)
    text = "\n".join(expr for _, _, expr in queries())
    assert [metric.name for metric in CATALOGUE if metric.full_name not in text] == []
    assert [alert.name for alert in ALERTS if alert.name not in text] == []
    assert re.search(r"min by \(issuer\) \(narthex_keys_fetched_timestamp_seconds\{[^}]*\} > 0\)", text), (
        "an instance that has fetched no keys yet would be drawn as 56 years"
    )
    for board in boards().values():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(set(ids)) == len(ids) > 3


def plain(expr: str) -> str:
    """The query with Grafana's variables replaced, and without the 0 that stands for no series."""
    expr = expr.replace("$job", "narthex").replace("$instance", ".*").replace("$__rate_interval", "20s")
    rare = any(metric.full_name in expr for metric in CATALOGUE if metric.name in RARE)
    return expr if rare or "ALERTS" in expr else expr.removesuffix(" or on () vector(0)")


async def test_every_query_gives_data(tmp_path: Path) -> None:
    """Under load that does everything once: handshakes, runs, refreshes, a revocation, tests and their report."""
    issuer = Issuer(certificate_days=90)
    await issuer.start()
    try:
        await every_query_gives_data(issuer, tmp_path)
    finally:
        await issuer.stop()


async def every_query_gives_data(issuer: Issuer, tmp_path: Path) -> None:
    """See the test."""
    env = {
        "ENVIRONMENT": "testing",
        "E2E_OAUTH_SIMULATION_KEY": KEY,
        "NARTHEX_ADMIN_KEY": ADMIN,
        **issuer.environ,
    }
    (tmp_path / "gateway").mkdir()
    async with running(tmp_path / "gateway", env) as program, Load() as load:
        target = f"127.0.0.1:{program.port}"
        async with stack(tmp_path / "prometheus", {"narthex": [target]}, scale=SCALE) as prometheus:
            empty = queries()
            for number in range(1, ROUNDS + 1):  # a rate needs a change between two samples of its range
                await work(program, issuer, load, number)
                passed = 4 * sum(range(1, number + 1))
                await prometheus.until(
                    lambda: prometheus.number('sum(narthex_e2e_tests_total{result="passed"})'), passed
                )
                empty = [one for one in empty if not await prometheus.query(plain(one[2]))]
                if not empty:
                    break
            assert empty == []


async def work(program: Any, issuer: Issuer, load: Load, number: int) -> None:
    """See the test."""
    admin = {"Authorization": f"Bearer {ADMIN}"}
    await program.login("ada@example.com")
    await load.touch(program.ws, issuer.token(), 5)
    await load.touch(program.ws, "no-token", 3)
    await load.touch(program.ws, issuer.token(kid="rotated"), 1)
    client = await load.join(program.ws, issuer.token())
    thread_id = (await client.rpc("thread.create"))["thread_id"]
    channel = f"thread:{thread_id}"
    assert "subscribe" in await client.call("subscribe", channel=channel)
    await client.run("count to 20", thread_id)
    assert "unsubscribe" in await client.call("unsubscribe", channel=channel)
    recovered = await client.call("subscribe", channel=channel, recover=True, offset=0, epoch="")
    assert "subscribe" in recovered
    assert "refresh" in await client.call("refresh", token=issuer.token())
    tester = await load.shake(program.ws, {"X-E2E-Bypass-Key": KEY, "X-E2E-Test-Run": "boards"})
    assert tester is not None
    tester_client = Client(tester)
    await tester_client.call("connect")
    await tester_client.close()
    revoked = await program.post("/api/v1/revoke", headers=admin, json={"kind": "subject", "value": "bob"})
    assert revoked.status_code == 200, revoked.text
    report = {
        "test_run": f"boards-{number}",
        "passed": 4 * number,
        "failed": 1,
        "skipped": 0,
        "duration_s": 1.0,
    }
    posted = await program.post("/api/v1/e2e/results", headers=admin, json=report)
    assert posted.status_code == 200, posted.text
