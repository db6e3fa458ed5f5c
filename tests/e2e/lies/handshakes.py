"""Lies at the upgrade: admission, and the content of a refusal."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

from tests.e2e.lies.registry import lie
from tests.e2e.lies.server import Lie, Line, Request, Response


class Handshake(Lie):
    """Answers some handshakes as if they had sent `good`, a token that the gateway admits."""

    async def request(self, request: Request) -> Request:
        changed = self.handshake(request) if request.upgrades else None
        return changed or request

    def handshake(self, request: Request) -> Request | None:
        raise NotImplementedError


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified; none when it is not a JWT."""
    try:
        part = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


@lie(
    {
        "smoke.no_token_is_nobody": "see the close|was answered|none was",
        "coordination.without_proof_there_is_nothing": "see the close",
    }
)
class NoTokenIsAdmitted(Handshake):
    """A handshake without any credential opens a connection of a user."""

    def handshake(self, request: Request) -> Request | None:
        carried = request.header("authorization") or request.header("sec-websocket-protocol")
        bare = not carried and not request.header("x-e2e-bypass-key") and "?" not in request.target
        return request.bearing(self.good) if bare else None


@lie(
    {
        "smoke.bad_tokens_are_refused": "a bad token was admitted",
        "critical_path.a_bad_token_is_refused_with_a_reason": "a forged token was admitted",
    }
)
class BadTokensAreAdmitted(Handshake):
    """A forged token opens a connection."""

    def handshake(self, request: Request) -> Request | None:
        carried = request.header("authorization").removeprefix("Bearer ")
        return request.bearing(self.good) if carried and "test_run" not in claims_of(carried) else None


@lie({"smoke.another_tenant_is_out_of_reach": "tenant was changed by its holder"})
class ChangedClaimsAreAdmitted(Handshake):
    """A token whose claims were changed opens a connection."""

    def handshake(self, request: Request) -> Request | None:
        claims = claims_of(request.header("authorization").removeprefix("Bearer "))
        return request.bearing(self.good) if claims.get("tenant") == "default" else None


@lie(
    {
        "smoke.a_wrong_key_is_nobodys": "admitted at the handshake",
        "critical_path.a_wrong_key_is_refused": "a wrong key was admitted",
    }
)
class WrongKeyIsAdmitted(Handshake):
    """A wrong key opens a connection."""

    def handshake(self, request: Request) -> Request | None:
        key = request.header("x-e2e-bypass-key")
        return request.bearing(self.good) if "not-the" in key else None


@lie({"security.a_foreign_page_is_refused": "another origin was admitted"})
class AnyOriginIsAllowed(Lie):
    """A page of another origin opens a connection."""

    async def request(self, request: Request) -> Request:
        return request.without("origin")


@lie({"auth.two_carriers_of_two_people_conflict": "one connection admitted two users"})
class SecondCarrierIsIgnored(Lie):
    """Two carriers with different users: the first one counts."""

    async def request(self, request: Request) -> Request:
        return request.without("sec-websocket-protocol") if request.header("authorization") else request


@lie({"security.the_key_beside_a_token_is_a_conflict": "admitted"})
class KeyBesideATokenIsIgnored(Lie):
    """A key beside a token: the token counts."""

    async def request(self, request: Request) -> Request:
        return request.without("x-e2e-bypass-key") if request.header("authorization") else request


@lie(
    {
        "auth.a_spent_ticket_is_no_ticket": "a ticket was accepted twice",
        "critical_path.a_ticket_works_once": "a ticket was accepted twice",
    }
)
class TicketsAdmitTwice(Handshake):
    """A spent ticket opens another connection."""

    def handshake(self, request: Request) -> Request | None:
        return request.bearing(self.good) if "ticket=" in request.target else None


@lie({"critical_path.a_token_in_the_url_is_refused": "a token in the URL was accepted"})
class TokenInTheUrlIsTaken(Handshake):
    """A JWT in the query string opens a connection."""

    def handshake(self, request: Request) -> Request | None:
        return request.bearing(self.good) if "?token=" in request.target else None


@lie({"coordination.a_stranger_sees_nothing": "a user who is not a member got access"})
class StrangersAreTheOwner(Lie):
    """The connection of another user is the owner's."""

    def __init__(self) -> None:
        self._owner = ""

    async def request(self, request: Request) -> Request:
        token = request.header("authorization").removeprefix("Bearer ")
        run = str(claims_of(token).get("test_run", ""))
        if run and not run.endswith("-eve"):
            self._owner = token
        return request.bearing(self._owner) if request.upgrades and run.endswith("-eve") else request


class Refusal(Lie):
    """Changes the body of refusals."""

    async def response(self, request: Request, response: Response) -> Response:
        body = response.json()
        if not request.upgrades or not isinstance(body, dict) or "code" not in body:
            return response
        return self.refused(request, response, body)

    def refused(self, request: Request, response: Response, body: Any) -> Response:
        raise NotImplementedError


@lie({"critical_path.a_bad_token_is_refused_with_a_reason": "remedy"})
class RefusalsWithoutARemedy(Refusal):
    """A refusal does not say what to do."""

    def refused(self, request: Request, response: Response, body: Any) -> Response:
        del body["remedy"]
        return response.saying(body)


@lie(
    {
        "critical_path.a_wrong_key_is_refused": "e2e_key_wrong",
        "critical_path.a_token_in_the_url_is_refused": "credential_in_url",
        "critical_path.a_ticket_works_once": "ticket_invalid",
        "auth.a_spent_ticket_is_no_ticket": "permission_denied",
        "auth.two_carriers_of_two_people_conflict": "credential_conflict",
        "security.a_foreign_page_is_refused": "origin_not_allowed",
        "security.the_key_beside_a_token_is_a_conflict": "permission_denied",
    }
)
class EveryRefusalHasOneCode(Refusal):
    """All refusals have the code `permission_denied`, with their own status."""

    def refused(self, request: Request, response: Response, body: Any) -> Response:
        return response.saying(body | {"code": "permission_denied"})


@lie({"websocket.a_wrong_path_is_named": "refused with 401"})
class WrongPathIs401(Refusal):
    """An unknown path looks like a wrong credential."""

    def refused(self, request: Request, response: Response, body: Any) -> Response:
        return response.saying(body | {"code": "auth_required"}, 401) if response.status == 404 else response


@lie({"websocket.every_alias_is_the_same_door": "404"})
class AliasIsMissing(Lie):
    """/connection/websocket does not exist."""

    async def request(self, request: Request) -> Request:
        if request.path == "/connection/websocket":
            return Request(request.method, "/nowhere", request.headers)
        return request


@lie({"websocket.the_token_is_never_echoed": "subprotocol"})
class TokenIsEchoed(Lie):
    """The selected subprotocol is the token."""

    async def upgraded(self, request: Request, response: Response) -> Response:
        offered = request.header("sec-websocket-protocol").split(", ")[-1]
        name = "sec-websocket-protocol"
        headers = [(n, offered if n.lower() == name else value) for n, value in response.headers]
        return Response(101, headers)


@lie({"critical_path.browsers_are_told_why": "close_reason"})
class ExplainWithoutAReason(Lie):
    """An explained refusal has a code and no text."""

    def closing(self, line: Line, code: int, reason: str) -> tuple[int, str]:
        return code, ""


class Slow(Lie):
    """Delays the answer to an upgrade."""

    seconds = 0.0

    async def upgraded(self, request: Request, response: Response) -> Response:
        await asyncio.sleep(self.seconds)
        return response


@lie({"startup.a_handshake_takes_no_time": "a connect took"})
class UpgradesAreSlow(Slow):
    """The answer to an upgrade comes after two seconds."""

    seconds = 2.1


@lie({"performance.doors_open_quickly": "p95 is"})
class UpgradesTakeASecond(Slow):
    """The answer to an upgrade comes after a second."""

    seconds = 1.02
