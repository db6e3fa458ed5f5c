"""Serves `/ws/verify`: the decision on a handshake for a proxy that asks before it completes the handshake itself.

nginx `auth_request`, Envoy `ext_authz` over HTTP, Traefik ForwardAuth, Caddy `forward_auth`. Not here: the decision
(`app/handshake`), the headers of the identity (the caller's). Rules: the request that counts is the client's, whose URI
and Host are believed from trusted proxies only; the answer to an admitted one names every header of the guard's, also
an empty one, so that a proxy that copies them overwrites those that the client sent; it decides and holds nothing:
expiry, revocation and limits of live sockets are not enforced behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from narthex.app.handshake import HandshakeHandler
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.ports.edge import RequestHead
from narthex.web.problems import NO_STORE, problem
from narthex.web.request_rules import head_of

PATH: Final = "/ws/verify"
METHODS: Final = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "PATCH",
    "DELETE",
    "OPTIONS",
)  # Envoy asks with the client's own
URI_HEADERS: Final = ("x-original-uri", "x-forwarded-uri")
HOST_HEADERS: Final = ("x-original-host", "x-forwarded-host")

IdentityHeaders = Callable[[Identity, str], list[tuple[str, str]]]
"""Makes the guard's headers of a user and a trace id. Raises DependencyError."""


def routes(handshakes: HandshakeHandler, identity_headers: IdentityHeaders) -> list[Route]:
    """Starlette routes. Envoy appends the client's path to `PATH`; the others send it in a header."""

    async def verify(request: Request) -> Response:
        asked = await handshakes.verify(original_head(request, trusted=_trusted(request)))
        if isinstance(asked.outcome, Refusal):
            return _refused(
                asked.outcome, asked.trace_id, as_403=request.query_params.get("refusals") == "403"
            )
        assert asked.outcome.identity is not None  # `verify` refuses a connection without proof
        found = {"Narthex-Test-Run": ""} | dict(identity_headers(asked.outcome.identity, asked.trace_id))
        envoy = "rest" in request.path_params  # which takes 200 only
        return Response(status_code=200 if envoy else 204, headers={**NO_STORE, **found})

    def _trusted(request: Request) -> bool:
        return handshakes.trusted.proxied(request.client.host if request.client else "")

    return [
        Route(PATH, verify, methods=list(METHODS)),
        Route(PATH + "/{rest:path}", verify, methods=list(METHODS)),
    ]


def _refused(refusal: Refusal, trace_id: str, *, as_403: bool) -> Response:
    """The refusal; with `as_403` under the one status that every proxy passes on, its own in `Narthex-Status`."""
    response = problem(refusal, trace_id, headers={"Narthex-Code": refusal.code})
    response.headers["Narthex-Status"] = str(response.status_code)
    if as_403:
        response.status_code = 403
    return response


def original_head(request: Request, *, trusted: bool) -> RequestHead:
    """The head of the client's request.

    Args:
        request: the proxy's question, which carries the client's headers.
        trusted: whether the peer is a trusted proxy, whose words about the client's URI and Host count.
    """
    head = head_of(request)
    rest = head.path.removeprefix(PATH)
    path = rest if rest.startswith("/") else ""
    query = head.query if path else ""
    if trusted:
        if uri := _one(head, URI_HEADERS):
            raw, _, query = uri.partition("?")
            path = unquote(raw)
        elif uri is None:
            path = query = ""
        if (host := _one(head, HOST_HEADERS)) != "":
            others = [header for header in head.headers if header[0] != "host"]
            head = msgspec.structs.replace(head, headers=[*others, ("host", host or "")])
    return msgspec.structs.replace(head, method="GET", path=path or "/", query=query)


def _one(head: RequestHead, names: tuple[str, ...]) -> str | None:
    """The value under these names; empty for none. None: two differ, and one of them may be the client's own, which the
    proxy passed on; then no path and no host is served.
    """
    values = {value for name in names for value in head.all(name) if value}
    return None if len(values) > 1 else next(iter(values), "")
