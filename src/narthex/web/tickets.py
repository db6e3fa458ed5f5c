"""Serves `POST /ws/ticket`: a single-use ticket for `/ws?ticket=`, for clients that cannot set headers.

Not here: using tickets up (app/credentials). Rules: a ticket is bound to the caller's identity and permissions and
never outlives either; the store keeps its fingerprint only; a ticket cannot be exchanged for another ticket.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from narthex.app.attempts import Attempts
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.refusals import Refusal, rate_limited
from narthex.domain.secrets import fingerprint
from narthex.ports.credentials import Credentials
from narthex.web.problems import NO_STORE, problem, trace_id_for
from narthex.web.request_rules import RequestAuthenticator

TICKET_TTL_S: Final = 30
TICKETS_A_MINUTE: Final = (
    120  # per user: two a second allow a reconnect storm of all devices, and bound the store
)
METHODS: Final = ("POST", "OPTIONS")


async def issue_ticket(credentials: Credentials, identity: Identity, now: float, *, key_id: str = "") -> str:
    """Make a ticket that admits `identity` once within `TICKET_TTL_S`.

    Health's own handshake gets its probe ticket here too. `key_id` names the key of the token that pays for it: when
    that key is removed, connections by the ticket end too.

    Raises:
        DependencyError: the store could not keep it.
    """
    ticket = secrets.token_urlsafe(32)
    kept = msgspec.json.encode(msgspec.to_builtins(identity) | {"key_id": key_id}).decode()
    await credentials.put_ticket(fingerprint(ticket), kept, now + TICKET_TTL_S)
    return ticket


def routes(
    http: RequestAuthenticator, credentials: Credentials, *, clock: Callable[[], float] = time.time
) -> list[BaseRoute]:
    """Starlette routes."""
    asked_lately = Attempts(TICKETS_A_MINUTE, 60.0)

    async def ticket(request: Request) -> Response:
        if request.method == "OPTIONS":
            return http.cors_preflight(request, METHODS)
        headers = http.cors(request)
        found = await http.authenticate_with_key(request)
        if not isinstance(found, Refusal) and found[0].identity_class is IdentityClass.GUEST:
            found = Refusal(code="auth_required", detail="A guest has no credential for a ticket.")
        if isinstance(found, Refusal):
            return problem(found, trace_id_for(request), headers=headers)
        identity, key_id = found
        now = clock()
        wait_s = asked_lately.take(identity.user, now)
        if wait_s > 0:
            refusal = rate_limited(wait_s, f"A user may request {TICKETS_A_MINUTE} tickets per minute.")
            return problem(refusal, trace_id_for(request), headers=headers)
        bought = await issue_ticket(credentials, identity, now, key_id=key_id)
        return JSONResponse({"ticket": bought, "expires_in": TICKET_TTL_S}, headers={**NO_STORE, **headers})

    return [Route("/ws/ticket", ticket, methods=list(METHODS))]
