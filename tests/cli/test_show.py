"""`narthex show`: everything that the dashboard shows, from a real gateway; no route of the page is left out."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import httpx2
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from narthex.app.fleet.history import RANGES
from narthex.cli import connections, operator_client, show
from narthex.cli.operator_client import ServerFault
from narthex.errors import EXIT_OK, ClientError, DependencyError
from narthex.testing import Running, gateway
from tests.timing import within

ROOT = Path(__file__).parents[2]
ADMIN = "an-admin-key-of-decent-length-0123456789"
ROUTE = re.compile(r"/api/v1/[^\"'`?\s]+")


def routes(folder: str, ending: str) -> set[str]:
    """The routes that sources name; a parameter is `{}`."""
    text = "".join(file.read_text(encoding="utf-8") for file in sorted((ROOT / folder).rglob(f"*.{ending}")))
    return {re.sub(r"\$?{[^}]*}", "{}", found).rstrip("./") for found in ROUTE.findall(text)}


def test_each_route_of_the_page_is_used_by_a_command() -> None:
    """What an operator sees or does on the dashboard can be seen and done in a terminal."""
    page = routes("web/src/dashboard", "ts") | routes("web/src/dashboard", "tsx")
    assert len(page) > 12
    assert page - routes("src/narthex/cli", "py") == set()


def test_the_ranges_are_those_of_the_history() -> None:
    """Of the page and the API."""
    assert get_args(show.Range) == tuple(RANGES)


def test_a_series_is_drawn_where_it_is_known() -> None:
    """The largest value is the highest bar, an unknown one a space; a long series is shortened."""
    assert show._spark([0, 4, 8, None, 2]) == "▁▄█ ▂"
    assert show._spark([None, None]) == "  "
    assert len(show._spark(list(range(720)))) == show.SPARK_WIDTH
    history = {
        "step_s": 10,
        "counters": {"handshakes|refused|token_expired|user": [10, None, 30]},
        "gauges": {},
        "peaks": {},
        "histograms": {"handshake_seconds": [[1, 0], None, [0, 0]]},
    }
    rows = list(show._figure_rows(history, {"handshake_seconds": [0.01]}))
    assert rows[0][0:2] == ("handshakes", "refused token_expired user")
    assert rows[0][3:] == ("3/s", "2/s", "3/s", "40")
    assert rows[1][3:] == ("0.0095 s, p95", "0.0095 s, p95", "0.0095 s, p95", "1")


async def printed(
    capsys: pytest.CaptureFixture[str], command: Callable[..., int], url: str, **options: Any
) -> str:
    """What a command prints."""
    capsys.readouterr()
    assert await asyncio.to_thread(command, url, key=ADMIN, **options) == EXIT_OK
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "fault",
    [DependencyError("gateway", "It is away.", ""), ServerFault("draining", "It is away.", "")],
)
def test_a_restart_of_the_gateway_does_not_end_the_watching(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fault: Exception
) -> None:
    """Each outage is reported once; a refusal and a fault of the first call end the command."""
    monkeypatch.setattr("time.sleep", lambda _: None)
    refusal = ClientError("permission_denied", "no")
    course: list[Exception | None] = [None, fault, fault, None, fault, None, refusal]
    answers = iter(course)

    def read() -> None:
        if (answer := next(answers)) is not None:
            raise answer

    with pytest.raises(ClientError) as ended:
        operator_client.repeat(read, 1.0)
    assert ended.value is refusal
    assert capsys.readouterr().err == "It is away. Trying again; Ctrl-C ends it.\n" * 2
    answers = iter([fault])
    with pytest.raises(type(fault)):
        operator_client.repeat(read, 1.0)


async def refused_handshakes(running: Running) -> None:
    """One of a token that is none, one of a user whose tokens were revoked."""
    for token in ("not.a.token", running.token("bob")):
        with pytest.raises(InvalidStatus):
            await connect(running.ws, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None)


async def test_each_command_prints_what_the_page_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refusals with their user, an audit record, a failed test, a measurement, the process and its figures."""
    async with gateway(tmp_path, admin_key=ADMIN) as running:
        url = running.http
        async with httpx2.AsyncClient(
            base_url=url, trust_env=False, headers={"Authorization": f"Bearer {ADMIN}"}
        ) as client:
            await printed(capsys, connections.revoke, url, user="bob", reason="lost laptop")
            await refused_handshakes(running)
            report = {"failed": [{"name": "critical_path.chat", "detail": "no answer"}]}
            body = {"test_run": "run-7", "passed": 3, "failed": 1, "report": report}
            assert (await client.post("/api/v1/e2e/results", json=body)).status_code == 200
            measured = {"figures": {"handshake: µs": 250.0}, "version": "1.2.3"}
            assert (await client.post("/api/v1/operator/baselines", json=measured)).status_code == 200

        async with asyncio.timeout(within(20)):
            text = await printed(capsys, show.refusals, url)
            while "token_revoked" not in text:
                await asyncio.sleep(0.1)  # a snapshot brings them
                text = await printed(capsys, show.refusals, url)
        assert re.search(r"token_malformed: .* not proven +authorization +loopback", text)
        assert re.search(r"token_revoked: .* bob +authorization +loopback", text)
        found = json.loads(await printed(capsys, show.refusals, url, user="bob", json_=True))["refusals"]
        assert [one["code"] for one in found] == ["token_revoked"]
        assert "revocation" in await printed(capsys, show.audits, url, kind="revocation")
        assert re.search(r"run-7 +tests .* critical_path.chat", await printed(capsys, show.tests, url))
        assert "handshake: µs 250" in await printed(capsys, show.performance, url)
        assert re.search(r"gateway +ready .* broker: ", await printed(capsys, show.processes, url))
        history = json.loads(await printed(capsys, show.figures, url, range_="15m", json_=True))
        assert history["range"] == "15m"
        assert "metric" in await printed(capsys, show.figures, url, metric="handshakes")
