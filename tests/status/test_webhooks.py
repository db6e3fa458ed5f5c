"""Webhooks reach a real receiver, signed, once for each event, and again while it is away."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from structlog.testing import capture_logs

from narthex.adapters.telemetry.logging import get_logger
from narthex.domain.webhooks import WebhookReceiver
from narthex.status import records
from narthex.status.database import StatusDatabase
from narthex.status.webhooks import WebhookSender
from tests.timing import within

KEYS = (b"k" * 24, b"o" * 32)
SECRETS = tuple("whsec_" + base64.b64encode(key).decode() for key in KEYS)
NOW = 1_800_000_000.0


class Hooks:
    """A receiver: answers with `statuses` in turn, the last one for ever, and keeps what it got.

    Attributes:
        got: headers and body of each request.
        arrived: set with the first.
    """

    def __init__(self, *statuses: str) -> None:
        self.statuses = list(statuses)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.url = ""
        self.arrived = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:] if line)
            }
            body = await reader.readexactly(int(headers["content-length"]))
            self.got.append((headers, body))
            self.arrived.set()
            status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def receiving(*statuses: str) -> AsyncIterator[Hooks]:
    """A receiver on loopback."""
    hooks = Hooks(*statuses)
    server = await asyncio.start_server(hooks.serve, "127.0.0.1", 0)
    hooks.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?from=narthex"
    async with server:
        yield hooks


@contextlib.asynccontextmanager
async def sending(
    directory: Path, receivers: list[WebhookReceiver], now: Callable[[], float] = lambda: NOW
) -> AsyncIterator[tuple[StatusDatabase, WebhookSender]]:
    """A queue and its sender, with the retries of the real one."""
    database = StatusDatabase(directory / "status.db")
    sender = WebhookSender(database, receivers, now, get_logger("test"))
    yield database, sender
    await sender.stop()
    await database.close()


async def queued(database: StatusDatabase, sender: WebhookSender, event: dict[str, Any]) -> None:
    await database.run(lambda connection: records.queue(connection, sender.urls, event, sender._now()))


async def counts(database: StatusDatabase) -> dict[str, int]:
    """Deliveries by state: due, done, failed."""
    return await database.run(
        lambda connection: dict(
            connection.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall()
        )
    )


async def test_a_receiver_verifies_an_event_with_the_official_library(tmp_path: Path) -> None:
    """With either of two secrets during a rotation, and with no other."""
    event = {"type": "incident.opened", "data": {"title": "Störung <b>"}}
    async with (
        receiving("204 No Content") as hooks,
        sending(tmp_path, [WebhookReceiver(hooks.url, KEYS)], time.time) as (database, sender),
    ):
        await queued(database, sender, event)
        assert await sender.send_due() == 1
        headers, body = hooks.got[0]
        for secret in SECRETS:
            assert Webhook(secret).verify(body, headers) == event
        with pytest.raises(WebhookVerificationError):
            Webhook("whsec_" + base64.b64encode(b"x" * 24).decode()).verify(body, headers)
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRETS[0]).verify(body + b" ", headers)
        assert headers["content-type"] == "application/json"
        assert await counts(database) == {"done": 1}
        assert await sender.send_due() == 0


async def test_a_receiver_that_is_away_gets_the_same_message_later(tmp_path: Path) -> None:
    """After the first wait, with the same id and a new timestamp; and holds up no other receiver."""
    clock = [NOW]
    async with (
        receiving("503 Service Unavailable", "200 OK") as slow,
        receiving("200 OK") as good,
        sending(
            tmp_path,
            [WebhookReceiver(slow.url, KEYS[:1]), WebhookReceiver(good.url, KEYS[:1])],
            lambda: clock[0],
        ) as (
            database,
            sender,
        ),
    ):
        await queued(database, sender, {"type": "x"})
        with capture_logs() as logs:
            await sender.send_due()
        assert (len(slow.got), len(good.got)) == (1, 1)
        assert await counts(database) == {"due": 1, "done": 1}
        assert [(one["error"], one["receiver"]) for one in logs] == [("HTTP 503", "127.0.0.1")]
        assert "from=narthex" not in str(logs)
        clock[0] += 4.0
        assert await sender.send_due() == 0
        clock[0] += 2.0
        assert await sender.send_due() == 1
        first, second = (headers for headers, _ in slow.got)
        assert first["webhook-id"] == second["webhook-id"] == good.got[0][0]["webhook-id"]
        assert int(second["webhook-timestamp"]) == int(first["webhook-timestamp"]) + 6
        assert await counts(database) == {"done": 2}


async def test_it_gives_up_after_three_days(tmp_path: Path) -> None:
    """Nine more tries; then the event is marked as failed and no more sent."""
    clock = [NOW]
    async with (
        receiving("500 Oops") as hooks,
        sending(tmp_path, [WebhookReceiver(hooks.url, KEYS[:1])], lambda: clock[0]) as (database, sender),
    ):
        await queued(database, sender, {"type": "x"})
        for _ in range(12):
            await sender.send_due()
            clock[0] += 2 * 86_400
        assert len(hooks.got) == 10
        assert await counts(database) == {"failed": 1}


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    """Else a receiver could send signed events, or the gateway itself, anywhere."""
    async with (
        receiving("200 OK") as target,
        receiving(f"307 T\r\nLocation: {target.url}") as hooks,
        sending(tmp_path, [WebhookReceiver(hooks.url, KEYS[:1])]) as (database, sender),
    ):
        await queued(database, sender, {"type": "x"})
        await sender.send_due()
        assert target.got == []
        assert await counts(database) == {"due": 1}


async def test_a_receiver_that_is_gone_from_the_settings_gets_nothing(tmp_path: Path) -> None:
    """Its queued events are dropped."""
    async with receiving("200 OK") as hooks:
        async with sending(tmp_path, [WebhookReceiver(hooks.url, KEYS[:1])]) as (database, sender):
            await queued(database, sender, {"type": "x"})
        async with sending(tmp_path, [WebhookReceiver("http://127.0.0.1:9/", KEYS[:1])]) as (
            database,
            sender,
        ):
            await sender.send_due()
            assert await counts(database) == {"failed": 1}
        assert hooks.got == []


async def test_two_processes_send_an_event_once(tmp_path: Path) -> None:
    """The workers of one gateway share the queue."""
    async with receiving("200 OK") as hooks:
        receivers = [WebhookReceiver(hooks.url, KEYS[:1])]
        async with (
            sending(tmp_path, receivers) as (database, one),
            sending(tmp_path, receivers) as (_, other),
        ):
            for number in range(8):
                await queued(database, one, {"type": "x", "number": number})
            async with asyncio.timeout(within(20)):
                sent = await asyncio.gather(one.send_due(), other.send_due(), one.send_due())
            assert sum(sent) == 8
        assert sorted(json.loads(body)["number"] for _, body in hooks.got) == list(range(8))
