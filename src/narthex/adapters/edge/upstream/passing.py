"""Passes plain HTTP requests to the upstream, streaming in both directions: an ASGI application.

Not here: any check of a request. Rules: nothing is kept whole; a slow reader on either side slows the other; hop-by-hop
headers end here and forwarding headers are written anew, as for an upgrade; a client that leaves ends its request; an
answer that breaks off breaks off for the client too, and is never ended as if it were whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any, Final

import httpx2

from narthex.adapters.edge.responses import Headers
from narthex.adapters.edge.upstream.dialing import UpstreamFault
from narthex.adapters.edge.upstream.heads import end_to_end, forwarded_headers
from narthex.domain.refusals import Refusal
from narthex.ports.edge import ABORT

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_CONNECTIONS: Final = 1_000
IDLE_CONNECTIONS: Final = 64
IDLE_S: Final = (
    4.0  # below the 5 s after which Node closes an idle connection, so that this side closes first
)

Prepare = Callable[[Message], tuple[Headers, str, str]]
"""Returns the headers of a request that the upstream may see, its client's address and its scheme."""


class HttpPassing:
    """See the module.

    Args:
        base: the upstream's URL: scheme, host and port.
        prepare: see `Prepare`.
        timeout_s: for the connection, and for the first byte of the answer.
        refuse: makes the ASGI application that answers a refusal.
    """

    def __init__(
        self,
        base: str,
        prepare: Prepare,
        *,
        timeout_s: float,
        refuse: Callable[[Refusal], Callable[[Message, Receive, Send], Awaitable[None]]],
    ) -> None:
        self._base = base
        self._prepare = prepare
        self._timeout_s = timeout_s
        self._refuse = refuse
        self._transport: httpx2.AsyncHTTPTransport | None = None

    async def start(self) -> None:
        """Open the pool of connections."""
        limits = httpx2.Limits(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=IDLE_CONNECTIONS,
            keepalive_expiry=IDLE_S,
        )
        self._transport = httpx2.AsyncHTTPTransport(limits=limits)

    async def stop(self) -> None:
        """Close it."""
        transport, self._transport = self._transport, None
        if transport is not None:
            await transport.aclose()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if self._transport is None:
            await self._refuse(Refusal(code="starting", retry_after_s=1))(scope, receive, send)
            return
        client = _Client(receive)
        try:
            async with asyncio.timeout(None) as deadline:
                deadline.reschedule(asyncio.get_running_loop().time() + self._timeout_s)
                request = self._request(scope, client.body(deadline, self._timeout_s))
                response = await self._transport.handle_async_request(request)
        except ClientLeft:
            return
        except (httpx2.HTTPError, TimeoutError) as error:
            await self._refuse(_fault(error, self._timeout_s).refusal)(scope, receive, send)
            return
        try:
            await client.unless_it_leaves(_answer(response, scope, send))
        finally:
            await response.aclose()

    def _request(self, scope: Message, body: AsyncIterator[bytes]) -> httpx2.Request:
        headers, address, scheme = self._prepare(scope)
        has_body = any(name in ("content-length", "transfer-encoding") for name, _ in headers)
        host = next((value for name, value in headers if name == "host"), "")
        lines = forwarded_headers(end_to_end(headers), address=address, scheme=scheme, host=host)
        target: bytes = scope.get("raw_path") or scope["path"].encode()
        target = target[len(scope.get("root_path", "")) :]  # uvicorn puts it in front
        if query := scope["query_string"]:
            target += b"?" + query
        return httpx2.Request(
            scope["method"],
            self._base,
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in lines],
            content=body if has_body else None,
            extensions={
                "target": target,  # as it came: to parse and write it anew could make another path of it
                "timeout": {"connect": self._timeout_s, "read": None, "write": None, "pool": self._timeout_s},
            },
        )


class ClientLeft(Exception):
    """The client is gone before its answer began."""


class _Client:
    """The client's side of one request."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def body(self, deadline: asyncio.Timeout, timeout_s: float) -> AsyncIterator[bytes]:
        """The request's body, piece by piece; the upstream's time begins anew with each."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            deadline.reschedule(asyncio.get_running_loop().time() + timeout_s)
            if piece := message.get("body", b""):
                yield piece
            if not message.get("more_body"):
                return

    async def unless_it_leaves(self, answering: Awaitable[None]) -> None:
        """Await `answering`, and cancel it when the client leaves: an answer may go on for ever."""
        task = asyncio.ensure_future(answering)
        leaving = asyncio.ensure_future(self._left())
        try:
            await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            for one in (task, leaving):
                one.cancel()
            await asyncio.gather(task, leaving, return_exceptions=True)

    async def _left(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _answer(response: httpx2.Response, scope: Message, send: Send) -> None:
    """Pass the upstream's answer."""
    headers = [
        (name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in response.headers.raw
    ]
    passed = [header for header in end_to_end(headers) if header[0] != "date"]  # the edge writes one
    await send(
        {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in passed],
        }
    )
    try:
        async for piece in response.aiter_raw():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    except httpx2.HTTPError:
        abort = scope.get("extensions", {}).get(ABORT)
        if abort is not None:
            abort["abort"]()
        return
    await send({"type": "http.response.body", "body": b""})


def _fault(error: Exception, timeout_s: float) -> UpstreamFault:
    if isinstance(error, httpx2.PoolTimeout):
        return UpstreamFault(
            "overloaded", f"All {MAX_CONNECTIONS} connections to the server behind are busy."
        )
    if isinstance(error, TimeoutError | httpx2.TimeoutException):
        return UpstreamFault("upstream_timeout", f"It did not answer within {timeout_s:.1f} s.")
    if isinstance(error, httpx2.ConnectError):
        return UpstreamFault("upstream_refused", "It refuses connections.", str(error))
    if isinstance(error, httpx2.NetworkError) or "disconnected" in str(error):
        return UpstreamFault("upstream_gone", "It closed the connection before it answered.", str(error))
    return UpstreamFault("upstream_invalid", "Its answer is no HTTP.", str(error))
