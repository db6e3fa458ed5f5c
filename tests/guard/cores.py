"""Guard cores on a real store, with sockets that only remember how they were closed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import jwt

from narthex.app.connection_context import ConnectionContext
from narthex.guard.core import GuardCore
from narthex.guard.life import SocketLife
from narthex.guard.paths import PathPatterns
from narthex.ports.edge import Accept, Decision, RequestHead
from narthex.ports.later import settled
from narthex.protocol.codes import Disconnect
from narthex.settings import load
from tests.timing import within

SECRET = "a-shared-secret-of-at-least-32-bytes"


def token(subject: str = "ann", ttl_s: float = 3600, secret: str = SECRET, **claims: object) -> str:
    """A token as a team's own issuer signs it."""
    now = time.time()
    return jwt.encode(
        {"sub": subject, "iat": int(now), "exp": int(now + ttl_s), **claims}, secret, algorithm="HS256"
    )


def head(path: str = "/ws", query: str = "", **headers: str) -> RequestHead:
    """The head of an upgrade from this machine."""
    found = [("host", "localhost"), *((name.replace("_", "-"), value) for name, value in headers.items())]
    return RequestHead(method="GET", path=path, query=query, headers=found, peer=("127.0.0.1", 5000))


class Held:
    """An admitted socket that remembers how the guard closed it."""

    def __init__(self, core: GuardCore, context: ConnectionContext) -> None:
        self.closed: Disconnect | None = None
        self.closed_at = 0.0
        self.life: SocketLife = core.lives.begin(context, self._close)

    def _close(self, disconnect: Disconnect) -> None:
        self.closed, self.closed_at = disconnect, time.monotonic()
        self.life.ended(disconnect.code)


@asynccontextmanager
async def core(
    directory: Path, *, in_band: bool = False, environ: dict[str, str] | None = None, **options: Any
) -> AsyncIterator[GuardCore]:
    """A started core; others may share its directory."""
    settings = load(
        {"data_dir": directory, "jwt_secret": SECRET} | options,
        {"ENVIRONMENT": "testing"} | (environ or {}),
        parts={"store"},
    )
    made = GuardCore(
        settings,
        new_receiver=lambda context: Held(made, context),  # type: ignore[arg-type, return-value]  # read back below
        paths=PathPatterns(["/ws"]),
        in_band=in_band,
    )
    await made.lifecycle.start()
    try:
        yield made
    finally:
        await made.lifecycle.stop()


async def decide(on: GuardCore, asked: RequestHead) -> Decision:
    """The guard's decision."""
    return await settled(on.handshakes.decide(asked))


async def admitted(on: GuardCore, asked: RequestHead) -> Held:
    """An admitted socket."""
    decision = await decide(on, asked)
    assert isinstance(decision, Accept), decision
    return cast("Held", decision.receiver)


async def until(holds: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(within(5)):
        while not holds():  # noqa: ASYNC110 - a condition of several objects has no event
            await asyncio.sleep(0.01)
