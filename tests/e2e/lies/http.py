"""Lies in HTTP answers: health, configuration, preflight, tickets, the exchange, the server API."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.e2e.lies.registry import lie
from tests.e2e.lies.server import Lie, Request, Response

HEALTH: Final = "/ws/health"
EXCHANGE: Final = "/auth/e2e/test-auth"


class Body(Lie):
    """Changes the JSON body of one path's answers."""

    path = ""
    method = "GET"

    async def response(self, request: Request, response: Response) -> Response:
        body = response.json()
        if request.path != self.path or request.method != self.method or not isinstance(body, dict):
            return response
        self.change(body)
        return response.saying(body)

    def change(self, body: Any) -> None:
        raise NotImplementedError


class Status(Lie):
    """Answers one path with another status."""

    path = ""
    method = "GET"
    status = 503

    async def response(self, request: Request, response: Response) -> Response:
        if request.path != self.path or request.method != self.method:
            return response
        return Response(self.status, response.headers, response.body)


@lie(
    {
        "smoke.it_is_well": "health answers 503",
        "startup.health_for_every_method_that_asks": r'get\("/ws/health"\)\)\.status_code == 200',
    }
)
class HealthIs503(Status):
    """Health answers 503 with a healthy body."""

    path = HEALTH


@lie({"startup.health_for_every_method_that_asks": "head.status_code"})
class HeadIsNotAllowed(Status):
    """HEAD of health is 405."""

    path, method, status = HEALTH, "HEAD", 405


@lie({"startup.health_for_every_method_that_asks": "OPTIONS"})
class OptionsAreNotAllowed(Status):
    """OPTIONS of health is 405."""

    path, method, status = HEALTH, "OPTIONS", 405


@lie({"startup.alive_and_ready": "/livez: 503", "startup_resilience.ready_and_alive": "status_code == 200"})
class NotAlive(Status):
    """/livez is 503 on a gateway that serves."""

    path = "/livez"


@lie({"startup.alive_and_ready": "/readyz: 503", "startup_resilience.ready_and_alive": "status_code == 200"})
class NotReady(Status):
    """/readyz is 503 on a gateway that serves."""

    path = "/readyz"


@lie({"smoke.the_bypass_is_as_it_should_be": "bypass False, key True"})
class BypassInverted(Body):
    """Health reports the opposite of whether test identities are admitted."""

    path = HEALTH

    def change(self, body: Any) -> None:
        body["e2e_testing"]["auth_bypass_active"] = not body["e2e_testing"]["auth_bypass_active"]


@lie(
    {
        "smoke.no_token_is_nobody": "none was|required before the upgrade",
        "auth.a_token_in_the_first_connect": "upgraded without a credential although",
    }
)
class PreConnectionAuthInverted(Body):
    """Health reports the opposite of whether a credential is needed before the upgrade."""

    path = HEALTH

    def change(self, body: Any) -> None:
        config = body["config"]
        config["pre_connection_auth_required"] = not config["pre_connection_auth_required"]


@lie({"startup.health_is_consistent_with_its_checks": "healthy in spite of"})
class HealthyOverAFailingCheck(Body):
    """The store's check fails under a healthy status."""

    path = HEALTH

    def change(self, body: Any) -> None:
        body["checks"]["store"]["status"] = "unhealthy"


@lie({"smoke.it_is_well": "handshake", "startup_resilience.health_made_a_handshake": "handshake"})
class HandshakeCheckFails(Body):
    """Health's own handshake fails on a gateway that admits."""

    path = HEALTH

    def change(self, body: Any) -> None:
        body["status"] = "degraded"
        body["errors"] = ["handshake"]
        body["checks"]["handshake"]["status"] = "unhealthy"


@lie({"startup_resilience.health_is_shaped_as_published": "active_connections"})
class HealthWithoutNumbers(Body):
    """Health lacks the published number of connections."""

    path = HEALTH

    def change(self, body: Any) -> None:
        del body["metrics"]["websocket"]["active_connections"]


@lie({"integration.the_numbers_move": "active_connections|stood still|counts"})
class NumbersStandStill(Body):
    """Health always shows the same plausible number of connections."""

    path = HEALTH

    def change(self, body: Any) -> None:
        body["metrics"]["websocket"]["active_connections"] = 7


@lie({"agent.what_it_says_of_health_is_true": "/ws/health: degraded"})
class HealthSaysDegraded(Body):
    """Health reports `degraded` although everything works."""

    path = HEALTH

    def change(self, body: Any) -> None:
        body["status"] = "degraded"


@lie({"security.health_gives_no_secret_away": "eyJ"})
class HealthShowsAToken(Body):
    """A check's detail quotes a token."""

    path = HEALTH

    def change(self, body: Any) -> None:
        body["checks"]["auth"]["detail"] = "verified eyJhbGciOiJFUzI1NiJ9.e30.c2ln"


@lie({"startup.settings_are_announced": "max_message_bytes|limits"})
class ConfigSaysConstants(Body):
    """/ws/config shows limits that are not in force."""

    path = "/ws/config"

    def change(self, body: Any) -> None:
        body["limits"] |= {"max_message_bytes": 1_000_000, "commands_per_s": 5.0, "ping_interval_s": 12.0}


@lie({"startup_resilience.what_a_client_needs_is_told": "websocket"})
class ConfigNamesAnotherPath(Body):
    """/ws/config names a path that does not exist."""

    path = "/ws/config"

    def change(self, body: Any) -> None:
        body["paths"]["websocket"] = "/socket"


@lie({"startup_resilience.what_a_client_needs_is_told": "beacon"})
class AnotherBeacon(Body):
    """/ws/beacon answers as another service."""

    path = "/ws/beacon"

    def change(self, body: Any) -> None:
        body["beacon"] = "proxy"


@lie({"integration.the_api_describes_itself": "openapi|paths"})
class DescriptionWithoutAPath(Body):
    """The OpenAPI document lacks a path that exists."""

    path = "/api/v1/openapi.json"

    def change(self, body: Any) -> None:
        del body["paths"]["/api/v1/threads/{thread_id}"]


@lie(
    {"smoke.preflight_says_the_same": "verdict", "critical_path.preflight_gives_the_same_verdict": "verdict"}
)
class PreflightRefuses(Body):
    """Preflight reports `refuse` for a token that the upgrade admits."""

    path = "/ws/preflight"

    def change(self, body: Any) -> None:
        if "verdict" in body:
            body["verdict"] = "refuse"


@lie(
    {
        "critical_path.preflight_gives_the_same_verdict": "bad.status_code",
        "security.refusals_help_nobody_but_their_owner": "401",
    }
)
class PreflightAdmitsAll(Lie):
    """Preflight admits a token that the upgrade refuses."""

    async def response(self, request: Request, response: Response) -> Response:
        if request.path == "/ws/preflight" and response.status == 401:
            return response.saying({"verdict": "admit"}, 200)
        return response


@lie({"security.refusals_help_nobody_but_their_owner": "the refusal repeats"})
class RefusalRepeatsTheToken(Body):
    """A refusal's detail quotes the token."""

    path = "/ws/preflight"

    async def response(self, request: Request, response: Response) -> Response:
        body = response.json()
        if request.path == self.path and response.status == 401:
            body["detail"] += " " + request.header("authorization")
            return response.saying(body)
        return response


@lie({"websocket.a_plain_get_is_told_to_upgrade": "426"})
class PlainGetIs200(Lie):
    """A GET of the socket's path is a page."""

    async def response(self, request: Request, response: Response) -> Response:
        plain = request.path == "/ws" and not request.upgrades
        return Response(200, response.headers, b"<html>") if plain else response


@lie({"auth.no_ticket_for_nobody": "answered with 200"})
class TicketForAnybody(Lie):
    """A ticket without a credential."""

    async def response(self, request: Request, response: Response) -> Response:
        bare = request.path == "/ws/ticket" and response.status == 401
        return response.saying({"ticket": "t", "expires_in": 30}, 200) if bare else response


@lie({"smoke.a_wrong_key_is_nobodys": "exchange answers 200"})
class WrongKeyIsExchanged(Lie):
    """The exchange gives a token for a wrong key."""

    async def response(self, request: Request, response: Response) -> Response:
        if request.path == EXCHANGE and response.status == 401:
            return response.saying({"access_token": "e.e.e", "expires_in": 900}, 200)
        return response


@lie({"smoke.a_wrong_key_is_nobodys": "503|e2e_key_wrong"})
class EveryWrongKeyMeetsAnOutage(Lie):
    """Wrong keys get 503, as if the key were not the reason."""

    async def response(self, request: Request, response: Response) -> Response:
        if response.status == 401 and request.header("x-e2e-bypass-key"):
            return response.saying({"code": "auth_unavailable", "status": 503}, 503)
        return response


@lie({"security.the_caller_cannot_choose_permissions": "was answered with 200"})
class ExchangeTakesPermissions(Lie):
    """The exchange accepts permissions, a tenant or a plan from its caller."""

    async def request(self, request: Request) -> Request:
        if request.path == EXCHANGE and request.body:
            kept = {name: value for name, value in json.loads(request.body).items() if name == "test_run"}
            return Request(request.method, request.target, request.headers, json.dumps(kept).encode())
        return request


@lie({"security.a_test_identity_operates_nothing": "answers 200"})
class ApiObeysTestIdentities(Lie):
    """The server API confirms an action that a test identity may not do."""

    async def response(self, request: Request, response: Response) -> Response:
        refused = request.path.startswith("/api/v1/") and response.status == 403
        return response.saying({"ok": True}, 200) if refused else response


@lie({"chat.a_thread_can_be_taken_along": "take me along"})
class ExportIsEmpty(Lie):
    """An export is empty."""

    async def response(self, request: Request, response: Response) -> Response:
        exported = request.path.endswith("/export") and response.status == 200
        return Response(200, response.headers, b"{}") if exported else response


@lie({"chat.a_thread_can_be_taken_along": "401"})
class ExportForAnybody(Lie):
    """An export without a credential."""

    async def response(self, request: Request, response: Response) -> Response:
        bare = request.path.endswith("/export") and response.status == 401
        return Response(200, response.headers, b"{}") if bare else response


@lie({"integration.http_and_socket_tell_the_same": "digest"})
class ApiTellsAnotherDigest(Lie):
    """The server API shows another digest of a run."""

    async def response(self, request: Request, response: Response) -> Response:
        body = response.json()
        if request.path.startswith("/api/v1/runs/") and isinstance(body, dict):
            return response.saying(body | {"digest": "sha256:0"})
        return response


@lie({"integration.http_and_socket_tell_the_same": "messages"})
class ApiForgetsMessages(Lie):
    """The server API shows a thread without its messages."""

    async def response(self, request: Request, response: Response) -> Response:
        body = response.json()
        if request.path.startswith("/api/v1/threads/") and isinstance(body, dict) and "messages" in body:
            return response.saying(body | {"messages": []})
        return response


@lie({"security.a_huge_head_is_answered": "answered with 200"})
class HugeHeadIsTaken(Lie):
    """20 KB of headers are admitted."""

    async def request(self, request: Request) -> Request:
        return request.without("x-padding")
