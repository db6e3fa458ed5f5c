"""The bounded buffers of a gateway in its metrics, each with its limit, and the series that alerts need."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import httpx2

import narthex.testing
from narthex.adapters.stores.sql.operation import Operation
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.adapters.telemetry import alert_rules
from narthex.adapters.telemetry.alerts import ALERTS, WORDS
from narthex.testing.running import Running
from tests.timing import within

BUFFERS = {
    *("connections", "connections_unauthenticated", "commands", "runs", "agents_waiting", "channel_reread"),
    *("control_unsent", "broker_queue", "store_queue", "introspections"),
    *("message_rate_table", "http_user_rate_table", "http_address_rate_table", "introspection_cache"),
    *("owner_plan_table", "failed_sign_in_table", "wrong_admin_key_table", "wrong_e2e_key_table"),
    *("agent_threads", "password_queue", "history_rows_table", "operator_questions"),
}

INCREASE = re.compile(r"(increase|rate)\((narthex_\w+_total)(?:\{([^}]*)\})?\[")
STEADY = {"narthex_credential_extractions_total", "narthex_engine_failures_total"}
"""Their alerts need minutes of such events: the first one of a series does not matter."""


async def scraped(running: Running, name: str) -> dict[str, float]:
    """The values of a gauge by buffer."""
    async with httpx2.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{running.http}/metrics")).text
    lines = [line for line in text.splitlines() if line.startswith(f'narthex_{name}{{buffer="')]
    return {line.split('"')[1]: float(line.rpartition(" ")[2]) for line in lines}


async def test_every_buffer_has_its_fill_and_its_limit(tmp_path: Path) -> None:
    """Also where nothing is in it; an API request is in both tables of HTTP rates."""
    async with narthex.testing.gateway(
        tmp_path,
        jwt_tenant="default",
        introspection_url="http://127.0.0.1:9/introspect",
        introspection_client_id="me",
        introspection_client_secret="s3cret-of-the-tests",
    ) as running:
        limits = await scraped(running, "buffer_limit")
        assert limits.keys() == (await scraped(running, "buffer_fill")).keys() == BUFFERS
        assert (await scraped(running, "buffer_used_ratio")).keys() == BUFFERS
        assert min(limits.values()) > 0
        async with httpx2.AsyncClient(trust_env=False) as client:
            headers = {"Authorization": f"Bearer {running.token('ada')}"}
            assert (await client.get(f"{running.http}/api/v1/threads", headers=headers)).status_code == 200
        fill = await scraped(running, "buffer_fill")
        assert fill["http_user_rate_table"] == 1
        assert fill["http_address_rate_table"] >= 1


async def test_the_stores_queue_is_what_waits(tmp_path: Path) -> None:
    """Operations behind one that takes long; none once it is over."""
    store = SqliteStore(tmp_path / "store.db")
    await store.start()
    begun, go_on = threading.Event(), threading.Event()

    def operation(*, slow: bool = False) -> Operation[None]:
        if slow:
            begun.set()
            go_on.wait(within(10))
        yield "SELECT 1", ()

    tasks = [asyncio.ensure_future(store._engine.write(operation(slow=True)))]
    await asyncio.to_thread(begun.wait, within(10))
    tasks += [asyncio.ensure_future(store._engine.write(operation())) for _ in range(5)]
    async with asyncio.timeout(within(10)):
        while store.pending < 5:  # noqa: ASYNC110 - a plain counter
            await asyncio.sleep(0.01)
    go_on.set()
    await asyncio.gather(*tasks)
    assert store.pending == 0
    await store.stop()


def needed(expression: str) -> set[tuple[str, str]]:
    """Metric and label of each series whose first event an alert must see, as they stand in the text of `/metrics`."""
    found: set[tuple[str, str]] = set()
    for _, name, matchers in INCREASE.findall(expression):
        labels = re.findall(r'(\w+)=~?"([^"]*)"', matchers)
        if name not in STEADY and ("code", WORDS["client"]) not in labels:
            found.add((name, ""))
            found |= {(name, f'{label}="{value}"') for label, values in labels for value in values.split("|")}
    return found


async def test_the_first_event_is_an_increase(tmp_path: Path) -> None:
    """Prometheus sees none in a series that begins with its first event, so a report of failed tests after a deploy,
    the first bug or the first failed handshakes would fire no alert.
    """
    async with narthex.testing.gateway(tmp_path) as running, httpx2.AsyncClient(trust_env=False) as client:
        lines = (await client.get(f"{running.http}/metrics")).text.splitlines()
    values = alert_rules.thresholds({})
    wanted = {one for alert in ALERTS for one in needed(alert_rules.expression(alert, values))}
    assert ("narthex_e2e_tests_total", 'result="failed"') in wanted
    assert ("narthex_bugs_total", "") in wanted
    missing = [
        (name, label)
        for name, label in sorted(wanted)
        if not any(line.partition("{")[0].partition(" ")[0] == name and label in line for line in lines)
    ]
    assert missing == []
    never = [
        line
        for line in lines
        if re.search('^narthex_handshakes_total.*code="(upstream_|starting|draining)', line)
    ]
    assert never == [], "no alert reads these, and the first never occur in this counter"
