"""Translates between ASGI and the handshake: a scope becomes a request head, a refusal becomes ASGI messages. Pure.

Rules: nothing is read from the scope's `state`, which the server and the application share; the application's scope is
a copy without credentials.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from narthex.app.connection_context import ConnectionContext
from narthex.domain.carriers import EXPLAIN
from narthex.domain.refusals import HTTP_ONLY_CLOSES, Refusal
from narthex.guard.cleaning import continued_trace, own_subprotocols, without_credentials, without_ticket
from narthex.guard.users import SCOPE_KEY, GuardedUser
from narthex.ports.edge import RequestHead

Scope = dict[str, Any]
Message = dict[str, Any]

_REFUSED: Final = 3507
RESPONSE: Final = "websocket.http.response"
_encode: Final = msgspec.json.Encoder().encode


def head_of(scope: Scope) -> RequestHead:
    """The request head of a WebSocket scope."""
    client = scope.get("client")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
    offered = scope.get("subprotocols")
    if offered and all(name != "sec-websocket-protocol" for name, _ in headers):
        headers.append(("sec-websocket-protocol", ", ".join(offered)))  # uvicorn with wsproto leaves it out
    return RequestHead(
        method="GET",
        path=scope["path"],
        query=scope.get("query_string", b"").decode("latin-1"),
        headers=headers,
        http_version=scope.get("http_version", "1.1"),
        # granian's port is a text; the port is used nowhere.
        peer=(client[0], 0) if client else ("", 0),
        secure=scope.get("scheme") == "wss",
    )


def application_scope(scope: Scope, context: ConnectionContext, socket: object) -> Scope:
    """The scope of an admitted connection for the application: without credentials, with the user.

    Args:
        scope: the server's.
        context: holds the user.
        socket: the guard's socket, which `identity` and `refresh` read.
    """
    offered = own_subprotocols(scope.get("subprotocols") or ())
    own = scope.copy()
    own.setdefault("scheme", "ws")  # daphne leaves it out, and Quart reads it
    own["headers"] = continued_trace(without_credentials(scope["headers"], offered), context.span)
    own["query_string"] = without_ticket(scope.get("query_string", b""))
    own["subprotocols"] = offered
    own["user"] = own["auth"] = GuardedUser(context)
    own[SCOPE_KEY] = socket
    return own


def refusal_messages(refusal: Refusal, trace_id: str, root: str) -> tuple[Message, Message]:
    """The HTTP response of a refusal, by the extension `websocket.http.response`; `root`: see `web.paths`."""
    body = _encode(refusal.problem(trace_id, root))
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        *((name.lower().encode(), value.encode("latin-1")) for name, value in refusal.headers()),
    ]
    return (
        {"type": f"{RESPONSE}.start", "status": refusal.row.http or 400, "headers": headers},
        {"type": f"{RESPONSE}.body", "body": body},
    )


def closing(code: int, reason: str) -> Message:
    """`websocket.close`. A code that daphne could not send, or that is no refusal (1000), becomes 3507."""
    return {"type": "websocket.close", "code": code if code >= 3000 else _REFUSED, "reason": reason}


def refusing(refusal: Refusal) -> Message:
    """`websocket.close` for a refusal; before an accept the server makes a bare 403 of it."""
    code, reason = refusal.close()
    return closing(HTTP_ONLY_CLOSES.get(refusal.code, code), reason)


def explained(scope: Scope) -> Message:
    """`websocket.accept` for a client that is upgraded only to be shown the reason of its refusal (`edge/upgrades`)."""
    offered = scope.get("subprotocols") or ()
    return {"type": "websocket.accept", "subprotocol": EXPLAIN if EXPLAIN in offered else None}


def answers_http(scope: Scope) -> bool:
    """Whether the server can answer a refused upgrade with a response of the application's."""
    return RESPONSE in (scope.get("extensions") or ())
