"""Writes a record of each HTTP request, where the access log is on.

Not here: handshakes, whose records `app.handshake_record` makes. Rules: method, path without its query, status, bytes,
time, the client's address and the answer's problem code; never a header's value, a query or a body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from narthex.web.paths import route_path
from narthex.web.problems import trace_id_for


class AccessLog:
    """ASGI middleware.

    Args:
        app: the application behind it.
        address: of a request's client.
        write: takes the members of a record.
    """

    def __init__(
        self, app: ASGIApp, *, address: Callable[[Request], str], write: Callable[..., object]
    ) -> None:
        self._app = app
        self._address = address
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass it on; the record is written when the answer has ended, whatever its end."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()
        status, sent = 0, 0

        async def counted(message: Message) -> None:
            nonlocal status, sent
            status = message.get("status", status)
            sent += len(message.get("body", b""))
            await send(message)

        request = Request(scope)
        scope.setdefault("state", {})
        members: dict[str, Any] = {"method": scope["method"], "path": route_path(scope)}
        members |= {"client": self._address(request), "trace_id": trace_id_for(request)}
        try:
            await self._app(scope, receive, counted)
        finally:
            duration_ms = round((time.monotonic() - began) * 1000, 3)
            self._write(**members, status=status, bytes=sent, duration_ms=duration_ms)
