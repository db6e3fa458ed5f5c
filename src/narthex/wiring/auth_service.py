"""`narthex auth serve`: the embedded provider as a service of its own, for several gateways to share.

Gateways point NARTHEX_OIDC_ISSUER at it. Not here: the routes (`web/auth.py`). Rules: it shares the settings and
the admission rules with the gateway; it has no broker, so gateways on the same store learn of revocations by their
poll, and others by introspection or when the token ends.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from narthex._version import __version__
from narthex.adapters.edge.listeners import url_of_listener
from narthex.adapters.edge.server import run
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.adapters.tokens.router import PROVIDER_ISSUER, TokenRouter
from narthex.adapters.tokens.signing import KeyRing
from narthex.app.certificate_watch import CertificateWatch
from narthex.app.expiry import CredentialExpiry
from narthex.app.health import HEALTHY, CheckFailed, ping_check
from narthex.app.lifecycle import Component, Lifecycle, LifecycleState
from narthex.app.revocations import Revocations
from narthex.domain.refusals import Refusal
from narthex.settings import Settings
from narthex.settings.trust import trust_of
from narthex.status.embedded import reporting
from narthex.web.auth import AuthRoutes
from narthex.web.health import PROBE_PATHS
from narthex.web.paths import route_path
from narthex.web.problems import problem
from narthex.web.request_rules import RequestRules
from narthex.wiring.engines import make_store
from narthex.wiring.gauges import provider_counts
from narthex.wiring.http_service import make_http_service
from narthex.wiring.provider import make_provider
from narthex.wiring.server_process import ServerProcess, make_health, open_listeners
from narthex.wiring.tokens import provider_rules

log = get_logger("narthex.auth")


class StartCheck:
    """ASGI middleware: 503 `starting` until the store is open, so that clients retry; probes and scrapers pass."""

    def __init__(self, app: ASGIApp, starting: Callable[[], bool]) -> None:
        self._app = app
        self._starting = starting

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "http" and self._starting() and route_path(scope) not in PROBE_PATHS:
            await problem(Refusal(code="starting", retry_after_s=1))(scope, receive, send)
            return
        await self._app(scope, receive, send)


def make_auth_service(
    settings: Settings, issuer: str, listeners: list[socket.socket], on_ready: Callable[[str], None]
) -> ServerProcess:
    """The service, made inside the running loop.

    Args:
        settings: validated.
        issuer: the `iss` of its tokens: its public URL.
        listeners: bound, not yet listening.
        on_ready: called with `issuer` once the service answers.
    """
    store = make_store(settings)
    credentials = store.credentials
    meter = PrometheusMeter(version=__version__, environment=settings.environment)
    trust = trust_of(settings, remote=settings.policy.environment.remote)
    ring = KeyRing(
        credentials,
        "provider",
        issuer=issuer,
        aliases=(PROVIDER_ISSUER,),
        audience=settings.jwt_audience[0] if settings.jwt_audience else "",
        rules=provider_rules(settings, trust.provider),
    )
    verifier = TokenRouter([ring])
    revocations = Revocations(
        credentials,
        None,
        records=store.records,
        after_exp_s=settings.jwt_leeway_s + settings.token_grace_s,
    )
    expiry = CredentialExpiry(credentials)
    provider = make_provider(
        settings, credentials=credentials, mint=ring, verifier=verifier, revocations=revocations, meter=meter
    )
    meter.read_from(provider_counts(provider))
    certificates = CertificateWatch({"store": store}, meter)
    lifecycle = Lifecycle(
        [
            Component("store", store.start, store.stop),
            Component("tokens", verifier.start, verifier.stop),
            Component("revocations", revocations.start, revocations.stop),
            Component("provider", provider.start),
            Component("expiry", expiry.start, expiry.stop),
            Component("certificates", certificates.start, certificates.stop),
        ],
        grace_s=settings.drain_grace_s,
        on_state=lambda state: log.info("state", state=state.value),
    )

    async def minting() -> str:
        status = await verifier.check()
        if status.status != HEALTHY:
            raise CheckFailed(status.detail)
        return status.detail

    checks = {"store": ping_check(store.ping), "auth": minting}
    health = make_health(settings, checks, lifecycle, meter, log, critical=("auth",))
    node = f"auth-{secrets.token_hex(6)}"
    lifecycle.add(reporting(settings, health, lambda: lifecycle.fault, meter, node, log), first=True)
    keys = settings.admin_keys()
    rules = RequestRules(settings.proxies, settings.origins, settings.public_url)
    site = AuthRoutes(
        provider=provider,
        verifier=verifier,
        revocations=revocations,
        rules=rules,
        service_keys=keys,
        open_introspection=not keys and not settings.policy.environment.remote,
    )

    def starting() -> bool:
        return lifecycle.state is LifecycleState.STARTING

    return make_http_service(
        settings,
        listeners,
        site.routes(),
        lifecycle,
        health,
        meter,
        log,
        rules=rules,
        name="auth",
        on_ready=lambda: on_ready(issuer),
        middleware=[Middleware(StartCheck, starting)],
    )


def serve(settings: Settings, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: validated.
        on_ready: called with the issuer's URL once the service answers.

    Raises:
        ConfigError: the address cannot be bound, or the keys do not match.
        Damaged: the data in the store cannot be read.
    """
    listeners = open_listeners(settings)
    issuer = settings.base_url or url_of_listener(listeners[0])
    log.info("auth service", issuer=issuer, environment=settings.environment)

    async def main() -> None:
        await make_auth_service(settings, issuer, listeners, on_ready).serve()

    run(main())
