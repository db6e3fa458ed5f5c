"""Serves `GET /ws/preflight`: the answer that an upgrade would get, because browsers hide refused handshakes.

Not here: the verdict (app/handshake). Rules: the same code path as the upgrade; no ticket is used up, no slot
taken, no client admitted; a page of an origin that is not allowed cannot read the answer.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from narthex.app.handshake import HandshakeHandler
from narthex.domain.admission import Admit
from narthex.domain.carriers import HANDSHAKE_CARRIERS
from narthex.domain.refusals import Refusal
from narthex.web.problems import NO_STORE, problem
from narthex.web.request_rules import RequestAuthenticator, head_of

METHODS = ("GET", "OPTIONS")


def routes(handshakes: HandshakeHandler, http: RequestAuthenticator) -> list[BaseRoute]:
    """Starlette routes."""

    async def preflight(request: Request) -> Response:
        if request.method == "OPTIONS":
            return http.cors_preflight(request, METHODS)
        asked = await handshakes.preflight(head_of(request))
        headers = http.cors(request)
        if isinstance(asked.outcome, Refusal):
            return problem(asked.outcome, asked.trace_id, headers=headers)
        return JSONResponse(_described(asked.outcome, asked.trace_id), headers={**NO_STORE, **headers})

    return [Route("/ws/preflight", preflight, methods=list(METHODS))]


def _described(admit: Admit, trace_id: str) -> dict[str, object]:
    """An admission as JSON; the client of an `inert` one must still send `connect.token`."""
    identity = admit.identity
    found: dict[str, object] = {
        "verdict": "admit",
        "inert": admit.inert or None,
        "carriers": list(admit.carriers),
        "carriers_checked": list(HANDSHAKE_CARRIERS),
        "trace_id": trace_id,
    }
    if identity is not None:
        found["user"] = {
            "id": identity.subject,
            "tenant": identity.tenant,
            "plan": identity.plan,
            "class": identity.identity_class.value,
        }
        found["expires_at"] = identity.expires_at
    return found
