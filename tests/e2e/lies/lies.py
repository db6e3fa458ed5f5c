"""The lies, one a class: which answer is untrue, and which scenarios must notice it with which words.

Not here: how an answer is changed on its way (`server`). Rules: a lie changes one answer and keeps all others true; a
lie about events keeps `count` and `digest` right, unless they are the lie, so that only an assertion about the content
can notice it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Final, NamedTuple

from narthex.domain.digest import digest_of
from tests.e2e.lies.server import Lie, Line, Message, Request, Response

Event = dict[str, Any]
HEALTH: Final = "/ws/health"
EXCHANGE: Final = "/auth/e2e/test-auth"


class Told(NamedTuple):
    """A lie and who must notice it: scenario → a regular expression that its failure must match."""

    make: Callable[[], Lie]
    noticed_by: Mapping[str, str]
    real: bool


LIES: Final[dict[str, Told]] = {}


def lie(noticed_by: Mapping[str, str], *, real: bool = False) -> Callable[[type[Lie]], type[Lie]]:
    """Register a lie under its class's name. `real`: it needs two gateways, real engines and an issuer."""

    def register(made: type[Lie]) -> type[Lie]:
        name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in made.__name__)
        LIES[name.lstrip("_")] = Told(made, noticed_by, real)
        return made

    return register


# -- HTTP answers ----------------------------------------------------------------------------------------------


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
    """Health says the contrary of whether test identities get in."""

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
    """Health says the contrary of whether a credential is needed before the upgrade."""

    path = HEALTH

    def change(self, body: Any) -> None:
        config = body["config"]
        config["pre_connection_auth_required"] = not config["pre_connection_auth_required"]


@lie({"startup.health_is_consistent_with_its_checks": "healthy over"})
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
    """Health shows the same plausible number of connections always."""

    path = HEALTH

    def change(self, body: Any) -> None:
        body["metrics"]["websocket"]["active_connections"] = 7


@lie({"agent.what_it_says_of_health_is_true": "/ws/health says degraded"})
class HealthSaysDegraded(Body):
    """Health says `degraded` while everything is well."""

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
    """/ws/config shows limits that are not those in force."""

    path = "/ws/config"

    def change(self, body: Any) -> None:
        body["limits"] |= {"max_message_bytes": 1_000_000, "commands_per_s": 5.0, "ping_interval_s": 12.0}


@lie({"startup_resilience.what_a_client_needs_is_told": "websocket"})
class ConfigNamesAnotherPath(Body):
    """/ws/config names a path that is not there."""

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
    """Preflight says `refuse` of a token that the upgrade admits."""

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
    """Wrong keys are answered 503, as if the key were not the reason."""

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
    """The server API says that it did what a test identity may not do."""

    async def response(self, request: Request, response: Response) -> Response:
        refused = request.path.startswith("/api/v1/") and response.status == 403
        return response.saying({"ok": True}, 200) if refused else response


@lie({"chat.a_thread_can_be_taken_along": "take me along"})
class ExportIsEmpty(Lie):
    """An export holds nothing."""

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


# -- handshakes ------------------------------------------------------------------------------------------------


class Handshake(Lie):
    """Answers some handshakes as if they had brought `good`, a token that the gateway admits."""

    async def request(self, request: Request) -> Request:
        changed = self.handshake(request) if request.upgrades else None
        return changed or request

    def handshake(self, request: Request) -> Request | None:
        raise NotImplementedError


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified; none when it is no JWT."""
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


@lie({"auth.two_carriers_of_two_people_conflict": "two people entered"})
class SecondCarrierIsIgnored(Lie):
    """Two carriers of two people: the first one counts."""

    async def request(self, request: Request) -> Request:
        return request.without("sec-websocket-protocol") if request.header("authorization") else request


@lie({"security.the_key_beside_a_token_is_a_conflict": "admitted"})
class KeyBesideATokenIsIgnored(Lie):
    """A key beside a token: the token counts."""

    async def request(self, request: Request) -> Request:
        return request.without("x-e2e-bypass-key") if request.header("authorization") else request


@lie(
    {
        "auth.a_spent_ticket_is_no_ticket": "a ticket admitted twice",
        "critical_path.a_ticket_works_once": "a ticket worked twice",
    }
)
class TicketsAdmitTwice(Handshake):
    """A spent ticket opens another connection."""

    def handshake(self, request: Request) -> Request | None:
        return request.bearing(self.good) if "ticket=" in request.target else None


@lie({"critical_path.a_token_in_the_url_is_refused": "a token in the URL was taken"})
class TokenInTheUrlIsTaken(Handshake):
    """A JWT in the query string opens a connection."""

    def handshake(self, request: Request) -> Request | None:
        return request.bearing(self.good) if "?token=" in request.target else None


@lie({"coordination.a_stranger_sees_nothing": "a stranger got in"})
class StrangersAreTheOwner(Lie):
    """The connection of another person is the owner's."""

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
    """All refusals say `permission_denied`, with their own status."""

    def refused(self, request: Request, response: Response, body: Any) -> Response:
        return response.saying(body | {"code": "permission_denied"})


@lie({"websocket.a_wrong_path_is_named": "refused with 401"})
class WrongPathIs401(Refusal):
    """An unknown path looks like a wrong credential."""

    def refused(self, request: Request, response: Response, body: Any) -> Response:
        return response.saying(body | {"code": "auth_required"}, 401) if response.status == 404 else response


@lie({"websocket.every_alias_is_the_same_door": "404"})
class AliasIsMissing(Lie):
    """/connection/websocket is not there."""

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
    """A refusal that is explained has a code and no words."""

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


# -- replies ---------------------------------------------------------------------------------------------------


def method_of(command: Message) -> str:
    """`rpc method`, or the command's own name."""
    if "rpc" in command:
        return str(command["rpc"].get("method"))
    return next((name for name in command if name != "id"), "")


class Reply(Lie):
    """Changes the data of one RPC method's result, or of one command's reply."""

    method = ""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if method_of(command) != self.method or "error" in reply:
            return reply
        data = reply["rpc"].get("data") if "rpc" in reply else reply[self.method]
        asked = command["rpc"].get("data", {}) if "rpc" in command else command[self.method]
        self.change(line, asked, data)
        return reply

    def change(self, line: Line, asked: Any, data: Any) -> None:
        raise NotImplementedError


class Taken(Lie):
    """Says yes to one command and does not do it."""

    method = ""
    result: ClassVar[Message] = {}

    def command(self, line: Line, command: Message) -> Message | None:
        if method_of(command) != self.method:
            return command
        kind = "rpc" if "rpc" in command else self.method
        line.tell({"id": command["id"], kind: {"data": self.result} if kind == "rpc" else self.result})
        return None


class Refuses(Lie):
    """Turns errors of some commands into results."""

    methods: tuple[str, ...] = ()

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "error" not in reply or method_of(command) not in self.methods:
            return reply
        if "rpc" in command:
            return {"id": reply["id"], "rpc": {"data": {"run_id": "r", "state": "running"}}}
        return {"id": reply["id"], method_of(command): {"epoch": "e", "offset": 0}}


@lie(
    {
        "websocket.commands_share_a_frame": "replies came as",
        "websocket.every_alias_is_the_same_door": "path",
        "failure_recovery.a_bad_frame_ends_only_its_own_line": "echo",
        "message_flow.error_handling_flow": "echo",
    }
)
class EchoIsAConstant(Lie):
    """`echo` answers `{"n": 0}` always."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if method_of(command) == "echo":
            reply["rpc"]["data"] = {"n": 0}
        return reply


@lie({"websocket.commands_share_a_frame": "replies came as"})
class RepliesComeBackwards(Lie):
    """The replies to one frame come in the opposite order."""

    def batch(self, messages: list[Message]) -> list[Message]:
        return messages[::-1]


@lie({"websocket.fragments_are_put_together": "fragment|long"})
class FragmentsAreCut(Lie):
    """A fragmented command loses some of its content."""

    def fragment(self, line: Line, final: bool, payload: bytes) -> bytes:
        return payload.replace(b"xxxx", b"x")


@lie({"startup_resilience.the_first_frame_can_be_handled_at_once": "error|not ready"})
class FirstCommandsAreRefused(Lie):
    """Commands that come together with `connect` are answered `not ready`."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if command.get("id") in (102, 103):
            return {"id": reply["id"], "error": {"code": 100, "message": "not ready", "temporary": True}}
        return reply


@lie({"auth.carriers_bring_the_same_person": "brought 2 people"})
class TicketBringsAnother(Reply):
    """The connection of a ticket is another person's."""

    method = "whoami"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        if "ticket=" in line.request.target:
            data["user"] = "another"


@lie({"auth.a_test_identity_is_confined": "tenant default"})
class TestIdentitiesAreInTheDefaultTenant(Reply):
    """A test identity is in the users' tenant."""

    method = "whoami"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["tenant"] = "default"


@lie({"auth.a_test_identity_is_confined": "admin"})
class TestIdentitiesAdminister(Reply):
    """A test identity has the permission `admin`."""

    method = "whoami"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["permissions"] = [*data["permissions"], "admin"]


@lie({"auth.a_test_identity_is_confined": "ttl 86400"})
class TestIdentitiesLiveADay(Reply):
    """A test identity's connection lives a day."""

    method = "connect"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["ttl"] = 86_400


@lie({"coordination.the_key_itself_is_a_way_in": "test_run"})
class KeyLosesItsTestRun(Reply):
    """An identity by key has a test run of the server's choice."""

    method = "whoami"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        if line.request.header("x-e2e-bypass-key"):
            data["test_run"] = "random-1"


@lie({"websocket_events.connect_reply_says_who_and_how_long": "subs"})
class ConnectWithoutTheOwnChannel(Reply):
    """The connect reply lacks the user's own channel."""

    method = "connect"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["subs"] = {}


@lie({"websocket_events.two_sockets_have_two_client_ids": "client"})
class OneClientIdForAll(Reply):
    """Every connection has the same client id."""

    method = "connect"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["client"] = "c-1"


@lie({"auth.a_refresh_keeps_the_line": "ttl"})
class RefreshSaysAConstant(Taken):
    """A refresh is answered with a constant and not made."""

    method = "refresh"
    result: ClassVar[Message] = {"client": "c", "version": "1", "expires": True, "ttl": 900}


@lie({"auth.a_bad_refresh_ends_it": "a forged refresh was taken"})
class AnyRefreshIsTaken(Lie):
    """A forged refresh is answered as a good one."""

    def command(self, line: Line, command: Message) -> Message | None:
        if "refresh" in command and command["refresh"]["token"].count(".e30.") == 1:
            line.tell({"id": command["id"], "refresh": {"expires": True, "ttl": 900}})
            return None
        return command


@lie({"chat.a_thread_from_its_making_to_its_end": "newest thread is not the first"})
class ThreadsAreListedBackwards(Reply):
    """The oldest thread is listed first."""

    method = "thread.list"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["threads"].reverse()
        data["threads"].insert(0, {"thread_id": "t-0", "title": "old"})


@lie({"chat.a_thread_from_its_making_to_its_end": "two"})
class RenamesAreSaidOnly(Taken):
    """A rename is acknowledged and not made."""

    method = "thread.rename"


@lie(
    {
        "chat.a_thread_from_its_making_to_its_end": "a deleted thread was read",
        "lifecycle_events.a_thread_is_renamed_and_deleted_for_every_device": "the deletion",
    }
)
class DeletionsAreSaidOnly(Taken):
    """A deletion is acknowledged and not made."""

    method = "thread.delete"


@lie({"chat.a_conversation_keeps_its_order": "assistant"})
class MessagesComeBackwards(Reply):
    """A thread's messages are in the opposite order."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["messages"].reverse()


@lie(
    {
        "message_flow.message_flow": r"said\[1\]",
        "response_streaming.deltas_make_the_stored_text": "messages",
        "agent_pipeline.a_finished_run_is_one_read": "content",
        "critical_path.come_back_and_find_it": "content",
    }
)
class StoredAnswersDiffer(Reply):
    """An answer in a thread is not what was streamed."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        for message in data["messages"]:
            if message["role"] == "assistant":
                message["content"] += "!"


@lie({"agent_pipeline.a_finished_run_is_one_read": "runs"})
class EndedRunsStayListed(Reply):
    """An ended run is listed as one that goes on."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["runs"] = [{"run_id": "r", "state": "running"}]


@lie({"response_streaming.a_late_device_reads_the_running_answer_from_its_start": "seq|offset"})
class ThreadsStandTooFar(Reply):
    """A thread's position is after events that its messages do not hold."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["offset"] += 6


@lie({"chat.what_was_said_is_found": r"\[\]"})
class SearchFindsNothing(Reply):
    """A search has no hits."""

    method = "thread.search"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["hits"] = []


@lie({"critical_path.come_back_and_find_it": "thread_id"})
class ListsForget(Reply):
    """A list of threads is empty."""

    method = "thread.list"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["threads"] = [{"thread_id": "t-0", "title": "old"}]


@lie({"chat.typing_is_seen_and_not_kept": "typing took an offset"})
class TypingTakesAnOffset(Reply):
    """The thread stands one further after a typing notice."""

    method = "thread.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["offset"] += 1


@lie({"message_flow.the_same_message_twice_is_one_run": "five sends made"})
class RepeatsAreOtherRuns(Reply):
    """A message that is sent again gets another run id."""

    method = "run.start"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        line.state["n"] = line.state.get("n", 0) + 1
        data["run_id"] += str(line.state["n"])


@lie({"message_flow.messages_keep_their_order": "started == runs"})
class RunIdsAreExchanged(Reply):
    """The second run of a connection is named with the id of the first."""

    method = "run.start"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        line.state.setdefault("runs", []).append(data["run_id"])
        if len(line.state["runs"]) == 2:
            data["run_id"] = line.state["runs"][0]


@lie(
    {
        "message_flow.a_message_that_is_too_large_is_refused_by_name": "40 KB were accepted",
    }
)
class LargeTextIsCut(Lie):
    """A text over the limit is cut in silence."""

    def command(self, line: Line, command: Message) -> Message | None:
        if method_of(command) == "run.start" and len(str(command["rpc"]["data"].get("text", ""))) > 32_000:
            data = command["rpc"]["data"]
            return command | {"rpc": {"method": "run.start", "data": data | {"text": data["text"][:100]}}}
        return command


@lie({"agent_pipeline.pipeline_error_handling": "unknown agent was accepted"})
class UnknownAgentsAreTheDefault(Lie):
    """A run of an unknown agent goes to another agent."""

    def command(self, line: Line, command: Message) -> Message | None:
        if method_of(command) == "run.start":
            asked = {name: value for name, value in command["rpc"]["data"].items() if name != "agent"}
            return command | {"rpc": {"method": "run.start", "data": asked}}
        return command


@lie({"message_flow.error_handling_flow": "no.such.method|100"})
class EveryErrorIs100(Lie):
    """Every error is an internal one."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "error" in reply:
            reply["error"] = {"code": 100, "message": "internal server error"}
        return reply


@lie(
    {
        "coordination.foreign_tenants_are_as_absent_as_nothing": "permission denied",
        "smoke.another_tenant_is_out_of_reach": "permission denied",
    }
)
class EverySubscriptionIsRefused(Lie):
    """Nobody may subscribe to anything: `permission denied`."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "subscribe" in command:
            return {"id": reply["id"], "error": {"code": 103, "message": "permission denied"}}
        return reply


@lie({"coordination.foreign_tenants_are_as_absent_as_nothing": "differ"})
class ForeignChannelsAnswerDifferently(Lie):
    """A channel of another tenant is `permission denied`, one that does not exist is `unknown`."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "subscribe" in command and "error" in reply:
            known = command["subscribe"]["channel"] in ("thread:default", "user:admin")
            reply["error"] = {"code": 103 if known else 102, "message": "no"}
        return reply


@lie(
    {
        "smoke.another_tenant_is_out_of_reach": "of others",
        "coordination.foreign_tenants_are_as_absent_as_nothing": "subscribed to",
    }
)
class AnyChannelIsOpen(Refuses):
    """A subscription to a channel of others is answered with success."""

    methods = ("subscribe",)


@lie({"smoke.another_tenant_is_out_of_reach": "read a thread of others"})
class ThreadsOfOthersAreRead(Refuses):
    """`thread.get` of an unknown thread gives one."""

    methods = ("thread.get",)


@lie({"security.a_client_cannot_write_into_a_channel": "a client published into"})
class PublishIsTaken(Refuses):
    """A client's `publish` is answered with success."""

    methods = ("publish",)


@lie({"agent_orchestration.an_ended_run_cannot_be_steered": "an ended run was steered"})
class EndedRunsAreSteered(Refuses):
    """Steering an ended run is answered with success."""

    methods = ("run.steer",)


@lie({"resilience.a_flood_of_commands_is_bounded": "closed with 3000"})
class FloodsMeetNoLimit(Lie):
    """Commands beyond the rate are answered like any other."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "error" in reply and method_of(command) == "time":
            return {"id": reply["id"], "rpc": {"data": {}}}
        return reply

    def closing(self, line: Line, code: int, reason: str) -> tuple[int, str]:
        return 3000, "constant"


@lie(
    {
        "agent_orchestration.cancel_stops_a_run": "the end of run|cancelled",
        "agent_orchestration.cancel_from_another_device": "the end of run|cancelled",
    }
)
class CancelIsSaidOnly(Taken):
    """A cancel is acknowledged and not done."""

    method = "run.cancel"
    result: ClassVar[Message] = {"state": "running"}


@lie({"agent_orchestration.steering_reaches_a_running_agent": "did not hear"})
class SteeringIsSaidOnly(Taken):
    """Steering is acknowledged and not done."""

    method = "run.steer"
    result: ClassVar[Message] = {"state": "running"}


@lie({"agent_orchestration.an_approval_is_answered_once": "first == second"})
class SecondAnswersAreOtherRuns(Lie):
    """The second answer to a question gets another run id."""

    def __init__(self) -> None:
        self._resumed = 0

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if method_of(command) == "run.resume":
            self._resumed += 1
            if self._resumed > 1:
                reply["rpc"]["data"]["run_id"] += "-2"
        return reply


@lie({"agent_orchestration.a_busy_thread_queues": "queued"})
class QueuedRunsAreRunning(Reply):
    """A run that waits is shown as running."""

    method = "run.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["state"] = "running" if data["state"] == "queued" else data["state"]


@lie(
    {
        "lifecycle_events.states_follow_the_table": "finished",
        "agent_pipeline.pipeline_execution": "finished",
    }
)
class RunsAreAlwaysRunning(Reply):
    """`run.get` says `running` of every run."""

    method = "run.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["state"] = "running"


@lie({"agent_pipeline.pipeline_execution": "digest"})
class RunsHaveAConstantDigest(Reply):
    """`run.get` shows a digest that is not the run's."""

    method = "run.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["digest"] = "sha256:" + "0" * 64


@lie({"response_streaming.deltas_make_the_stored_text": "text"})
class RunsHaveAnotherText(Reply):
    """`run.get` shows another text than was streamed."""

    method = "run.get"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["text"] = (data["text"] or "")[:-1]


@lie({"lifecycle_events.joining_and_leaving_is_seen": "both devices"})
class PresenceIsOfOne(Reply):
    """Presence lists one connection."""

    method = "presence"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["presence"] = dict(list(data["presence"].items())[:1])


@lie({"websocket_events.each_event_is_published_once": "expected seq"})
class HistoryHoldsEventsTwice(Reply):
    """A channel's history holds one event twice."""

    method = "history"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["publications"].insert(4, data["publications"][4])


@lie({"performance.echoes_come_back_quickly": "p95 is"})
class EchoesAreSlow(Lie):
    """An echo takes 0.4 s."""

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if method_of(command) == "echo":
            await asyncio.sleep(0.4)
        return reply


# -- recovery --------------------------------------------------------------------------------------------------


@lie(
    {
        "smoke.a_dropped_line_comes_back": "was not recovered",
        "failure_recovery.a_dropped_line_resumes_without_a_gap": "was not recovered",
        "failure_recovery.five_drops_in_one_run": "was not recovered",
        "resilience.a_crowd_comes_back_at_once": "was not recovered",
        "resilience.ten_runs_through_a_drop_each": "recovered",
        "agent_pipeline.a_finished_run_is_one_read": "recovered",
    }
)
class NothingIsRecovered(Reply):
    """No position is recovered."""

    method = "subscribe"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["recovered"] = False


@lie({"failure_recovery.a_foreign_position_is_not_recovered_in_part": "another epoch was recovered"})
class AnyPositionIsRecovered(Reply):
    """`recovered: true` of a position of another epoch."""

    method = "subscribe"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        data["recovered"] = True


@lie(
    {
        "failure_recovery.a_dropped_line_resumes_without_a_gap": "expected seq|missing",
        "failure_recovery.five_drops_in_one_run": "expected seq|missing",
        "failure_recovery.disconnect_is_not_cancel": "expected seq|digest",
        "resilience.ten_runs_through_a_drop_each": "expected seq|missing",
        "resilience.a_crowd_comes_back_at_once": "expected seq|missing",
    }
)
class RecoveryHasAGap(Reply):
    """A recovery says `recovered: true` and lacks one publication."""

    method = "subscribe"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        found = data.get("publications", [])
        if found:
            del found[len(found) // 2]


@lie({"failure_recovery.notices_are_recovered_too": "thread"})
class NoticesAreNotRecovered(Reply):
    """A `connect` that recovers the user's channel brings nothing."""

    method = "connect"

    def change(self, line: Line, asked: Any, data: Any) -> None:
        for sub in data["subs"].values():
            sub["publications"] = []


# -- pushes ----------------------------------------------------------------------------------------------------


class Silence(Lie):
    """Keeps some pushes from clients."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        return [] if self.hidden(push) else [{"push": push}]

    def hidden(self, push: Message) -> bool:
        raise NotImplementedError


class NoticeLost(Silence):
    """Keeps one kind of notice from clients."""

    notice = ""

    def hidden(self, push: Message) -> bool:
        return bool(push.get("pub", {}).get("data", {}).get("name") == self.notice)


@lie({"websocket_events.notices_reach_the_users_own_channel": "both notices"})
class BeginningsAreNotNoticed(NoticeLost):
    """The user's channel does not say that a run began."""

    notice = "narthex.run_began"


@lie({"lifecycle_events.a_thread_is_renamed_and_deleted_for_every_device": "the new name"})
class RenamesAreNotNoticed(NoticeLost):
    """The user's channel does not say that a thread was renamed."""

    notice = "narthex.thread_renamed"


@lie({"coordination.two_people_share_a_thread": "the invitation"})
class AdditionsAreNotNoticed(NoticeLost):
    """The user's channel does not say that they were added to a thread."""

    notice = "narthex.thread_added"


@lie({"chat.typing_is_seen_and_not_kept": "the typing notice"})
class TypingIsNotSeen(Silence):
    """No device learns that another one types."""

    def hidden(self, push: Message) -> bool:
        return "typing" in str(push)


@lie({"lifecycle_events.joining_and_leaving_is_seen": "the leave"})
class LeavingIsNotSeen(Silence):
    """No device learns that another one left."""

    def hidden(self, push: Message) -> bool:
        return "leave" in push


@lie({"coordination.a_removed_member_loses_the_channel_at_once": "the unsubscription"})
class RemovalIsNotSeen(Silence):
    """A removed member is not unsubscribed."""

    def hidden(self, push: Message) -> bool:
        return "unsubscribe" in push


@lie({"coordination.a_removed_member_loses_the_channel_at_once": "after the removal|between us"})
class RemovalIsSaidOnly(Lie):
    """A removed member is told so, and goes on receiving."""

    def __init__(self) -> None:
        self._lines: list[Line] = []

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        if "connect" in command:
            self._lines.append(line)
        return reply

    def command(self, line: Line, command: Message) -> Message | None:
        if method_of(command) != "thread.members.remove":
            return command
        data = command["rpc"]["data"]
        for other in self._lines:
            if other is not line:
                other.tell(
                    {
                        "push": {
                            "channel": f"thread:{data['thread_id']}",
                            "unsubscribe": {"code": 2000, "reason": "r"},
                        }
                    }
                )
        line.tell({"id": command["id"], "rpc": {"data": {}}})
        return None


@lie({"websocket.pings_keep_an_idle_line": "a ping"})
class PingsNeverCome(Lie):
    """The announced pings do not come."""

    def ping(self) -> bool:
        return False


@lie(
    {
        "response_streaming.the_first_token_comes_soon": "the first delta came after",
        "performance.first_words_come_quickly": "p95 is",
    }
)
class DeltasAreSlow(Lie):
    """The first delta of a run comes after 2.2 s."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        run = push.get("pub", {}).get("data", {}).get("runId")
        if run and run not in line.state:
            line.state[run] = True
            await asyncio.sleep(2.2)
        return [{"push": push}]


@lie({"performance.a_room_of_thirty_hears_it_together": "late|did not see"})
class OneDeviceIsLate(Lie):
    """The twentieth connection gets what is published 3.5 s late."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        if line.number == 20 and push.get("pub", {}).get("data", {}).get("type") == "RUN_STARTED":
            await asyncio.sleep(8)
        return [{"push": push}]


@lie({"response_streaming.text_comes_in_pieces": "everything came at once"})
class EverythingComesAtOnce(Lie):
    """Events of a run are held until its end."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        event = push.get("pub", {}).get("data", {})
        held: list[Message] = line.state.setdefault("held", [])
        if "runId" not in event or "seq" not in event:
            return [{"push": push}]
        held.append({"push": push})
        if event["type"] not in ("RUN_FINISHED", "RUN_ERROR"):
            return []
        line.state["held"] = []
        return held


# -- closes ----------------------------------------------------------------------------------------------------


@lie(
    {
        "websocket.too_large_is_closed_by_name": "closed with 1000",
        "websocket.nothing_before_connect": "closed with 1000",
        "failure_recovery.a_bad_frame_ends_only_its_own_line": "3501",
        "security.deep_json_ends_only_its_own_line": "closed with 1000",
        "auth.a_bad_refresh_ends_it": "closed with 1000",
        "coordination.without_proof_there_is_nothing": "3500",
        "smoke.no_token_is_nobody": "closed with 1000",
    }
)
class EveryCloseIs1000(Lie):
    """Every close has code 1000."""

    def closing(self, line: Line, code: int, reason: str) -> tuple[int, str]:
        return 1000, reason


@lie({"websocket.a_clean_goodbye": "closed with 1001"})
class GoodbyeHasAnotherCode(Lie):
    """A client's own close is answered with 1001."""

    def closing(self, line: Line, code: int, reason: str) -> tuple[int, str]:
        return 1001, reason


# -- events of runs, with `count` and `digest` kept right ----------------------------------------------------


class Events(Lie):
    """Changes events of runs wherever a client sees them."""

    consistent = True
    per_line = False

    def __init__(self) -> None:
        self._told: dict[tuple[int, str], dict[int, Event]] = {}

    def event(self, line: Line, event: Event) -> Event:
        """One event of a run; the answer must depend on nothing but the event and the line."""
        raise NotImplementedError

    async def push(self, line: Line, push: Message) -> list[Message]:
        if "pub" in push:
            self._publication(line, push["pub"])
        return [{"push": push}]

    async def reply(self, line: Line, command: Message, reply: Message) -> Message | None:
        for publication in _publications(reply):
            self._publication(line, publication)
        return reply

    def _publication(self, line: Line, publication: Message) -> None:
        event = publication.get("data")
        if not isinstance(event, dict) or "runId" not in event or "seq" not in event:
            return
        changed = publication["data"] = self.event(line, dict(event))
        told = self._told.setdefault((line.number if self.per_line else 0, event["runId"]), {})
        for seq in range(int(event.get("seq_from") or event["seq"]), event["seq"] + 1):
            told.pop(seq, None)
        told[event["seq"]] = changed
        if self.consistent and "digest" in event:
            changed["digest"] = digest_of([told[seq] for seq in sorted(told)])


def _publications(reply: Message) -> Iterator[Message]:
    if "subscribe" in reply:
        yield from reply["subscribe"].get("publications", [])
    if "history" in reply:
        yield from reply["history"].get("publications", [])
    for sub in reply.get("connect", {}).get("subs", {}).values():
        yield from sub.get("publications", [])


def hidden(event: Event) -> Event:
    """The event as one that no scenario asks for; order, ids and `seq` stay."""
    kept = {
        name: event[name] for name in ("runId", "threadId", "seq", "seq_from", "timestamp") if name in event
    }
    return {"type": "CUSTOM", "name": "lie", "value": {}} | kept


class Hidden(Events):
    """Hides some types of events."""

    types: tuple[str, ...] = ()

    def event(self, line: Line, event: Event) -> Event:
        return hidden(event) if event["type"].startswith(self.types) else event


@lie(
    {
        "websocket_events.event_flow": "TOOL_CALL",
        "agent_pipeline.thinking_and_tools_are_visible": "TOOL_CALL",
        "lifecycle_events.tool_calls_have_arguments_and_results": "tool call",
    }
)
class ToolCallsAreNotShown(Hidden):
    """A run shows no tool calls."""

    types = ("TOOL_CALL_",)


@lie({"agent_pipeline.thinking_and_tools_are_visible": "REASONING"})
class ReasoningIsNotShown(Hidden):
    """A run shows no reasoning."""

    types = ("REASONING_",)


@lie({"lifecycle_events.tool_calls_have_arguments_and_results": "argument"})
class ToolCallsHaveNoArguments(Hidden):
    """A tool call has no arguments."""

    types = ("TOOL_CALL_ARGS",)


@lie({"lifecycle_events.tool_calls_have_arguments_and_results": "result"})
class ToolCallsHaveEmptyResults(Events):
    """A tool call's result is empty."""

    def event(self, line: Line, event: Event) -> Event:
        return event | {"content": ""} if event["type"] == "TOOL_CALL_RESULT" else event


@lie(
    {
        "agent_pipeline.every_opened_thing_is_closed": "closed",
    }
)
class MessagesNeverEnd(Hidden):
    """A message is opened and not closed."""

    types = ("TEXT_MESSAGE_END",)


@lie({"agent.steps_and_state_of_a_long_task": "STEP_FINISHED"})
class StepsNeverEnd(Hidden):
    """A step is opened and not closed."""

    types = ("STEP_FINISHED",)


@lie({"agent.steps_and_state_of_a_long_task": "STATE_DELTA"})
class StateNeverChanges(Hidden):
    """A long task shows no change of its state."""

    types = ("STATE_DELTA",)


@lie({"lifecycle_events.lifecycle_monitoring": "STEP_|TOOL_CALL"})
class WorkIsNotShown(Hidden):
    """A watcher sees a run begin and end, and no work."""

    types = ("STEP_", "TOOL_CALL_")


@lie({"lifecycle_events.a_run_has_one_beginning_and_one_end": "RUN_STARTED"})
class RunsBeginTwice(Events):
    """A run has a second beginning."""

    def event(self, line: Line, event: Event) -> Event:
        return hidden(event) | {"type": "RUN_STARTED"} if event["seq"] == 3 else event


@lie({"lifecycle_events.lifecycle_monitoring": "threadId"})
class EventsNameAnotherThread(Events):
    """An event names another thread than the one that it is in."""

    def event(self, line: Line, event: Event) -> Event:
        return event | {"threadId": "another"} if event["seq"] == 3 else event


@lie({"agent_orchestration.cancel_stops_a_run": "was cancelled and ended with"})
class CancelledRunsSucceed(Events):
    """A cancelled run ends as a success."""

    def event(self, line: Line, event: Event) -> Event:
        return event | {"outcome": {"type": "success"}} if event["type"] == "RUN_FINISHED" else event


@lie({"agent_orchestration.approval_continues_in_a_new_run": "parentRunId"})
class ResumedRunsHaveNoParent(Events):
    """The run after an answer names no parent."""

    def event(self, line: Line, event: Event) -> Event:
        return {name: value for name, value in event.items() if name != "parentRunId"}


class Text(Events):
    """Changes the text of answers, delta by delta."""

    def event(self, line: Line, event: Event) -> Event:
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            event["delta"] = self.text(line, event["delta"])
        return event

    def text(self, line: Line, delta: str) -> str:
        raise NotImplementedError


@lie(
    {
        "critical_path.sign_in_ask_read": "critical path",
        "agent.it_explains_a_refusal": "token_expired",
        "agent.it_says_what_it_does_not_understand": "do not understand",
        "agent.the_same_question_twice_gives_the_same_text": "text_of",
        "agent_pipeline.the_agent_knows_who_asks": "whoami|user",
        "coordination.twenty_people_at_once_get_their_own": "mine-",
        "chat.a_long_message_goes_through": "characters came back",
        "response_streaming.many_answers_stream_at_once": "stream-",
        "response_streaming.a_reader_that_pauses_still_gets_the_same_text": "text",
    }
)
class AnswersAreInvented(Text):
    """Every answer is an invented text of the same length."""

    def text(self, line: Line, delta: str) -> str:
        return "z" * len(delta)


@lie({"message_flow.unicode_survives": "came back"})
class TextIsNormalised(Text):
    """Text is normalised to NFC."""

    def text(self, line: Line, delta: str) -> str:
        return unicodedata.normalize("NFC", delta)


@lie(
    {
        "websocket_events.seven_concurrent_sockets": "two sockets saw different runs",
        "response_streaming.a_reader_that_pauses_still_gets_the_same_text": "text",
    }
)
class OneSocketSeesAnotherText(Text):
    """The second connection sees another text, proven by a digest of its own."""

    per_line = True

    def text(self, line: Line, delta: str) -> str:
        return delta.replace("1", "7") if line.number == 2 else delta


@lie(
    {
        "coordination.twenty_people_at_once_get_their_own": "mine-",
        "response_streaming.many_answers_stream_at_once": "stream-",
    }
)
class WordsMix(Text):
    """Words of one run stand in another."""

    def text(self, line: Line, delta: str) -> str:
        return delta.replace("mine-3-", "mine-3- mine-4-").replace("stream-3-", "stream-3- stream-4-")


@lie({"chat.a_long_message_goes_through": "characters came back"})
class LongTextIsCut(Text):
    """A long word loses its end."""

    def text(self, line: Line, delta: str) -> str:
        return delta[:-1] if len(delta) > 200 else delta


@lie(
    {
        "smoke.one_question_one_whole_answer": "digest",
        "critical_path.sign_in_ask_read": "digest",
        "websocket_events.event_flow": "digest",
        "agent_pipeline.pipeline_error_handling": "digest",
    }
)
class DigestsAreWrong(Events):
    """A run's digest is not that of its events."""

    consistent = False

    def event(self, line: Line, event: Event) -> Event:
        return event | {"digest": "sha256:" + "0" * 64} if "digest" in event else event


@lie({"agent.the_same_question_twice_gives_the_same_text": "digest"})
class DigestsAreAConstant(Events):
    """Every run has the same digest."""

    consistent = False

    def event(self, line: Line, event: Event) -> Event:
        return event | {"digest": "sha256:" + "1" * 64} if "digest" in event else event


@lie({"chat.what_the_other_device_says_arrives": "the message arrived as"})
class MessagesOfPeopleAreChanged(Lie):
    """A person's own message reaches other devices with other words."""

    async def push(self, line: Line, push: Message) -> list[Message]:
        event = push.get("pub", {}).get("data", {})
        if "runId" not in event and "delta" in event:
            event["delta"] = event["delta"].upper()
        return [{"push": push}]


# -- what takes two gateways -----------------------------------------------------------------------------------


@lie({"integration.two_gateways_are_one_system": "the end of run|cancelled"}, real=True)
class CancelIsSaidOnlyElsewhere(CancelIsSaidOnly):
    """A cancel through the other gateway is acknowledged and not done."""


@lie({"integration.people_of_an_issuer_and_test_identities_never_meet": "reached across tenants"}, real=True)
class TenantsMeet(Refuses):
    """Threads of another tenant are read."""

    methods = ("thread.get", "subscribe", "run.start", "thread.members.add")


@lie(
    {
        "startup_resilience.a_killed_gateway_loses_nothing": "recovered|missing|expected seq",
        "resilience.an_idle_device_comes_back_after_kill_9": "recovered",
    },
    real=True,
)
class NothingIsRecoveredElsewhere(NothingIsRecovered):
    """No position of a killed gateway is recovered."""


@lie({"resilience.an_orphaned_run_ends_by_name": "ended with"}, real=True)
class OrphansEndWithoutAName(Events):
    """The run of a killed gateway ends with another code."""

    def event(self, line: Line, event: Event) -> Event:
        return event | {"code": "internal"} if event["type"] == "RUN_ERROR" else event
