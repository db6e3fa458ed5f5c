"""Applies the handshake's rules to plain HTTP requests: the caller, its address, and the pages that may read an answer.

Not here: the rules themselves (app/handshake, domain). Rules: every route takes a client's address, scheme, origin
and identity from here, so that no route can disagree with the upgrade.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from narthex.app.handshake import HandshakeHandler
from narthex.app.rates import Rates
from narthex.domain.addresses import ClientAddress, Network, TrustedProxies, client_of, within
from narthex.domain.identity import Identity
from narthex.domain.origins import OriginPolicy, claimed_origin, from_this_machine, is_forwarded, origin_fault
from narthex.domain.refusals import Refusal, rate_limited
from narthex.ports.edge import ABORT, RequestHead
from narthex.web.paths import root_path, route_path

CORS_MAX_AGE_S: Final = 600  # Chromium caps at 7200; a changed setting should reach pages within minutes
CORS_HEADERS: Final = (
    "authorization, content-type, last-event-id, traceparent, x-e2e-bypass-key, x-e2e-test-run"
)
CORS_EXPOSED: Final = "retry-after, www-authenticate, narthex-run, narthex-thread"


class RequestFacts(msgspec.Struct, frozen=True):
    """A request's client address, whether its client uses TLS, and the URL under which it reached us: its origin, and
    the path that a proxy has removed or an application mounted us at.
    """

    address: str
    secure: bool
    base_url: str


class RequestRules:
    """Finds a request's client, by the headers of trusted proxies, and the pages that may send requests.

    Args:
        trusted: proxies whose forwarding headers count.
        origins: pages that may use this service.
        public_url: how clients reach it; empty: as each request did.
    """

    def __init__(self, trusted: TrustedProxies, origins: OriginPolicy, public_url: str = "") -> None:
        self._trusted = trusted
        self._origins = origins
        self._public_url = public_url.rstrip("/")

    def client(self, request: Request) -> ClientAddress:
        """The client's address and scheme."""
        return client_of(
            request.client.host if request.client else "",
            request.scope.get("scheme") == "https",
            request.headers.getlist("x-forwarded-for"),
            request.headers.getlist("x-forwarded-proto"),
            self._trusted,
        )

    def address(self, request: Request) -> str:
        """The client's address."""
        return self.client(request).address

    def scraper(self, request: Request, networks: tuple[Network, ...], *, loopback: bool) -> bool:
        """Whether a request for `/metrics` needs no token: its client is in `networks`, or (`loopback`) a program of
        this machine. A forwarding header of a proxy that is not trusted hides the client, so that it is neither.
        """
        peer, names = request.client.host if request.client else "", request.headers.keys()
        if is_forwarded(names):
            return self._trusted.proxied(peer) and within(self.address(request), networks)
        return within(peer, networks) or (loopback and from_this_machine(peer, names))

    def facts(self, request: Request) -> RequestFacts:
        """Client address, whether the client uses TLS, and the URL under which it reached us (`https://host/root`)."""
        client = self.client(request)
        return RequestFacts(
            address=client.address,
            secure=client.scheme == "https",
            base_url=(self._public_url or f"{client.scheme}://{request.headers.get('host', '')}")
            + root_path(request.scope),
        )

    def origin_refusal(self, request: Request, *, cookie: bool = False) -> Refusal | None:
        """The reason why a request's origin may not use its credential here; `cookie`: a cookie is its only one."""
        headers, scheme = request.headers, self.client(request).scheme
        host = headers.get("host", "")
        claimed = claimed_origin(
            headers.get("origin"), headers.getlist("sec-fetch-site"), scheme=scheme, host=host, upgrade=False
        )
        fault = origin_fault(self._origins, claimed, host=host, scheme=scheme, cookie=cookie)
        return Refusal(code="origin_not_allowed", detail=fault) if fault else None

    def origin_allowed(self, request: Request, origin: str) -> bool:
        """Whether a page of `origin` may use this gateway."""
        host = request.headers.get("host", "")
        return self._origins.allows(origin, host=host, scheme=self.client(request).scheme)

    def cors(self, request: Request) -> dict[str, str]:
        """The headers by which a page of an allowed origin may read an answer (Fetch standard)."""
        origin = request.headers.get("origin")
        if origin is None or not self.origin_allowed(request, origin):
            return {"Vary": "Origin"}
        return {
            "Vary": "Origin",
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": CORS_EXPOSED,
        }


class RequestAuthenticator(RequestRules):
    """The gateway's rules with authentication. `authenticate` fits `web.access.Authenticate`.

    Args:
        handshakes: the upgrade's handshake handler.
        public_url: see `RequestRules`.
        rates: of requests, by user; None: there is no limit.
        limited: called at each request that is refused for its user's rate.
    """

    def __init__(
        self,
        handshakes: HandshakeHandler,
        public_url: str = "",
        *,
        rates: Rates | None = None,
        limited: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(handshakes.trusted, handshakes.policy.origins, public_url)
        self._handshakes = handshakes
        self._rates = rates
        self._limited = limited

    def cors_preflight(self, request: Request, methods: Iterable[str]) -> Response:
        """The answer to OPTIONS; a page of another origin gets no permission in it."""
        headers = self.cors(request)
        if "Access-Control-Allow-Origin" in headers:
            headers |= {
                "Access-Control-Allow-Methods": ", ".join(methods),
                "Access-Control-Allow-Headers": CORS_HEADERS,
                "Access-Control-Max-Age": str(CORS_MAX_AGE_S),
            }
        return Response(status_code=204, headers=headers)

    async def authenticate(self, request: Request) -> Identity | Refusal:
        """The user of a request's credential, by the upgrade's rules; tickets do not count over HTTP."""
        found = await self.authenticate_with_key(request)
        return found if isinstance(found, Refusal) else found[0]

    async def authenticate_with_key(self, request: Request) -> tuple[Identity, str] | Refusal:
        """As `authenticate`, with the id of the key that signed the user's token (empty: none did)."""
        asked = await self._handshakes.identify(head_of(request))
        request.state.trace_id = asked.trace_id  # for the answer and the handshake record
        outcome = asked.outcome
        if isinstance(outcome, Refusal):
            return outcome
        if outcome.identity is None or "ticket" in outcome.carriers:
            return Refusal(code="auth_required", carriers_checked=("authorization", "cookie"))
        if self._rates is not None:
            wait_s = self._rates.take(outcome.identity.user, time.monotonic())
            if wait_s:
                self._limited()
                return rate_limited(wait_s, "Too many requests from this user.")
        return outcome.identity, outcome.key_id


def head_of(request: Request) -> RequestHead:
    """A Starlette request's head, as the upgrade handler expects it."""
    scope = request.scope
    client = request.client
    return RequestHead(
        method=request.method,
        path=route_path(scope),  # never request.url: a Host header can change its path (Starlette 2026-48710)
        query=scope["query_string"].decode("latin-1"),
        headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]],
        http_version=scope.get("http_version", "1.1"),
        peer=(client.host, client.port) if client else ("", 0),
        secure=scope.get("scheme") == "https",
    )


def abort_of(request: Request) -> Callable[[], None] | None:
    """A call that drops the request's connection at once; None where the server is not our edge."""
    extension = (request.scope.get("extensions") or {}).get(ABORT)
    abort: Callable[[], None] | None = extension and extension["abort"]
    return abort
