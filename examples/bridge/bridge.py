"""A bridge between a team chat and an agent, by Standard Webhooks both ways.

    team chat ── signed webhook ──> POST /incoming ──> a thread of the gateway, one for each channel of the team chat
    team chat <── signed webhook ── the run's answer

A webhook that was accepted is kept in a file until its answer has been delivered, so that a restart loses none. The
same `webhook-id` starts the same run: a repeated delivery is answered once.
"""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Coroutine
from datetime import UTC, datetime
from typing import Any

import httpx2
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from narthex import client

GATEWAY = os.environ.get("NARTHEX_URL", "ws://127.0.0.1:8000/ws")
OUTGOING = os.environ.get("OUTGOING_URL", "http://127.0.0.1:9001/answers")
INCOMING_SECRET = os.environ["INCOMING_SECRET"]  # whsec_…: the team chat signs with it
OUTGOING_SECRET = os.environ["OUTGOING_SECRET"]  # whsec_…: the bridge signs with it
MAX_BODY = 64 * 1024
NOT_NOW = (429, 503)  # the plan's limits, or an engine is away: the same call succeeds later
RETRY_AFTER_S = (1, 5, 30, 120, 600)  # then the answer stays in the file, and is tried again after a restart

database = sqlite3.connect("bridge.db", isolation_level=None)
database.executescript(
    """
    CREATE TABLE IF NOT EXISTS threads (channel TEXT PRIMARY KEY, thread_id TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS webhooks (
        id TEXT PRIMARY KEY, channel TEXT NOT NULL, author TEXT NOT NULL, text TEXT NOT NULL,
        done INTEGER NOT NULL DEFAULT 0
    );
    """
)


def token() -> str:
    """Against `narthex serve` in the same directory. In production ask your issuer for the bridge's own token."""
    return subprocess.check_output(["narthex", "token", "--sub", "team-chat"], text=True).strip()


async def incoming(request: Request) -> Response:
    """Check the signature, keep the message, and answer at once; the team chat does not wait for the agent."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            return JSONResponse({"error": "the body is too large"}, 413)
    try:
        message = Webhook(INCOMING_SECRET).verify(body, dict(request.headers))
    except (WebhookVerificationError, ValueError) as fault:
        return JSONResponse({"error": f"not accepted: {fault}"}, 401)
    try:
        row = (request.headers["webhook-id"], *(str(message[name]) for name in ("channel", "author", "text")))
    except (KeyError, TypeError):
        return JSONResponse({"error": "channel, author and text are needed"}, 422)
    new = database.execute(
        "INSERT OR IGNORE INTO webhooks (id, channel, author, text) VALUES (?, ?, ?, ?)", row
    )
    if new.rowcount:
        request.app.state.arrived.put_nowait(row)
    return JSONResponse({"new": bool(new.rowcount)}, 202)


class Bridge:
    """One connection to the gateway, and a task for each message that has no answer yet."""

    def __init__(self, gateway: client.Gateway) -> None:
        self.gateway = gateway
        self.answers: set[asyncio.Task[None]] = set()

    async def follow(self, arrived: asyncio.Queue[Any]) -> None:
        """Start a run for each message, in the order of arrival; answers may end in any order."""
        for row in database.execute(
            "SELECT id, channel, author, text FROM webhooks WHERE NOT done ORDER BY rowid"
        ):
            arrived.put_nowait(row)
        try:
            while True:
                await self.start(*await arrived.get())
        finally:
            for task in self.answers:
                task.cancel()

    async def start(self, webhook_id: str, channel: str, author: str, text: str) -> None:
        """Put the message into the channel's thread. The gateway gives the same run for the same id."""
        known = database.execute("SELECT thread_id FROM threads WHERE channel = ?", (channel,)).fetchone()
        while True:
            try:
                run = await self.gateway.start_run(
                    f"{author}: {text}", thread_id=known[0] if known else None, client_message_id=webhook_id
                )
                break
            except client.Refused:
                raise  # the gateway does not admit the bridge any more: a person must look
            except client.ClientError as error:
                if error.number not in NOT_NOW:  # this message is too long, or its thread is gone
                    self.spawn(self.finish(webhook_id, channel, f"error_{webhook_id}", "error", str(error)))
                    return
            except client.Unreachable as away:
                print(away, flush=True)
            await asyncio.sleep(5)
        database.execute("INSERT OR IGNORE INTO threads VALUES (?, ?)", (channel, run.thread_id))
        self.spawn(self.answer(webhook_id, channel, run))

    async def answer(self, webhook_id: str, channel: str, run: client.Run) -> None:
        """Wait for the end of the run and deliver its text."""
        await run.wait()
        await self.finish(webhook_id, channel, run.run_id, run.outcome, run.text)

    async def finish(self, webhook_id: str, channel: str, message_id: str, outcome: str, text: str) -> None:
        """Deliver an answer, and forget the message when the team chat has it."""
        body = {"channel": channel, "in_reply_to": webhook_id, "outcome": outcome, "text": text}
        if await deliver(message_id, json.dumps(body)):
            database.execute("UPDATE webhooks SET done = 1 WHERE id = ?", (webhook_id,))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run it beside the others, and keep it until it ends."""
        task = asyncio.create_task(work)
        self.answers.add(task)
        task.add_done_callback(self.answers.discard)


async def deliver(message_id: str, body: str) -> bool:
    """Send a signed webhook until the receiver accepts it; each attempt has the same id and a signature of its own."""
    async with httpx2.AsyncClient(timeout=15) as http:
        for wait in (0, *RETRY_AFTER_S):
            await asyncio.sleep(wait)
            now = datetime.now(UTC)
            headers = {
                "content-type": "application/json",
                "webhook-id": message_id,
                "webhook-timestamp": str(int(now.timestamp())),
                "webhook-signature": Webhook(OUTGOING_SECRET).sign(message_id, now, body),
            }
            with contextlib.suppress(httpx2.HTTPError):
                if (await http.post(OUTGOING, content=body, headers=headers)).is_success:
                    return True
    return False


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Connect before the first webhook is accepted; a refusal of the gateway ends the start, with its reason."""
    app.state.arrived = asyncio.Queue()
    async with client.connect(GATEWAY, get_token=token) as gateway:
        following = asyncio.create_task(Bridge(gateway).follow(app.state.arrived))
        following.add_done_callback(stop_server)
        yield
        following.cancel()
        await asyncio.wait([following])


def stop_server(following: asyncio.Task[None]) -> None:
    """Without a gateway there is no bridge: print the reason and stop, so that a supervisor notices."""
    if not following.cancelled():
        print(f"the bridge stops: {following.exception()}", flush=True)
        os.kill(os.getpid(), signal.SIGTERM)


app = Starlette(routes=[Route("/incoming", incoming, methods=["POST"])], lifespan=lifespan)
