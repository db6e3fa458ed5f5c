"""The web application of one node: makes every route over the parts. Not here: the routes' handlers (`web`)."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import BaseRoute

from narthex._version import __version__
from narthex.adapters.edge.self_probe import SelfAddress, SelfProbe
from narthex.adapters.telemetry.alerts import ALERTS
from narthex.adapters.telemetry.catalogue import CATALOGUE
from narthex.adapters.telemetry.logging import get_logger
from narthex.adapters.telemetry.runbooks import find, runbook
from narthex.app.expiry import CredentialExpiry
from narthex.app.fleet.history import HistoryReader
from narthex.app.health import (
    Check,
    Health,
    agents_check,
    auth_check,
    issue_probe_ticket,
    ping_check,
)
from narthex.app.lifecycle import Component
from narthex.app.provider import Provider
from narthex.app.runs.worker_presence import workers_check
from narthex.app.sign_in import SignIn
from narthex.domain import endpoints
from narthex.ports.broker import Broker
from narthex.ports.store import Store
from narthex.status.embedded import EmbeddedStatus
from narthex.web import e2e, pages, preflight, problem_pages, runbook_pages, tickets
from narthex.web.access import Access
from narthex.web.access_log import AccessLog
from narthex.web.agui import AguiRoutes
from narthex.web.api import ServerApi
from narthex.web.api.operators import OperatorApi
from narthex.web.auth import AuthRoutes
from narthex.web.cookies import KeptFromApplications
from narthex.web.fallbacks import Fallbacks
from narthex.web.health import HealthPages, client_config, with_root
from narthex.web.oidc import OidcRoutes
from narthex.web.paths import root_path
from narthex.web.problems import exception_handlers
from narthex.web.request_rules import RequestAuthenticator
from narthex.wiring.gauges import attempt_table, provider_counts
from narthex.wiring.parts import Parts
from narthex.wiring.provider import make_code_flow, make_provider
from narthex.wiring.server_process import address_rates, make_health, trusted_scraper, user_rates
from narthex.wiring.tokens import make_exchange

log = get_logger("narthex.health")
status_log = get_logger("narthex.status")


class WebApplication:
    """The application, and its own components for the lifecycle.

    Args:
        parts: the app.
        address: the server's listening address.
        tcp_connections: returns their number now.
        routes: the embedding program's own; they come first.
    """

    def __init__(
        self,
        parts: Parts,
        address: SelfAddress,
        tcp_connections: Callable[[], int],
        routes: Sequence[BaseRoute] = (),
    ) -> None:
        self._parts = parts
        self._tcp_connections = tcp_connections
        limits = parts.core.config.limits
        self.http = RequestAuthenticator(
            parts.handshakes,
            parts.settings.public_url,
            rates=user_rates(limits, parts.meter),
            limited=lambda: parts.meter.count("http_rate_limited", by="user"),
        )
        keys = parts.settings.admin_keys()
        self.access = Access(
            keys,
            self.http.authenticate,
            self.http.address,
            parts.now,
            metrics_tokens=parts.settings.metrics_tokens(),
            trusted_scraper=trusted_scraper(parts.settings, self.http),
            origin=self.http.origin_refusal,
        )
        parts.meter.read_from(attempt_table("wrong_admin_key_table", self.access.wrong_keys))
        self.provider = self._make_provider()
        if self.provider is not None:
            parts.meter.read_from(provider_counts(self.provider))
        self.code_flow = make_code_flow(parts.settings, parts.tokens.outside)
        self.health = self._make_health(address)
        self.status = EmbeddedStatus(
            parts.settings, self.access, self.http, parts.store.records.audit, status_log
        )
        fallbacks = Fallbacks(
            parts.handshakes,
            parts.core.node,
            parts.broker.control,
            self.http,
            message_bytes=limits.max_message_bytes,
        )
        parts.core.controls.on("emulation", fallbacks.control)
        exchange = make_exchange(
            parts.settings, parts.tokens, parts.proofs, parts.admissions, parts.meter, parts.now
        )
        self.app = Starlette(
            routes=[
                *routes,
                *self._health_pages().routes(),
                *preflight.routes(parts.handshakes, self.http),
                *tickets.routes(self.http, parts.store.credentials, clock=parts.now),
                *e2e.routes(exchange, self.http),
                *fallbacks.routes(),
                *self._auth_routes(keys),
                *self._api().routes(),
                *self._operator_api().routes(),
                *AguiRoutes(parts.handshakes, self.http, parts.core).routes(),
                *self.status.routes(),
                *pages.routes(),
                *problem_pages.routes(),
                *runbook_pages.routes({alert.slug: alert.name for alert in ALERTS}, _runbook),
            ],
            exception_handlers=exception_handlers(parts.report_bug, self.http.cors),
            middleware=[
                *self._access_log(),
                address_rates(limits, self.http, parts.meter, foreign=routes),
                Middleware(KeptFromApplications),
            ],
        )

    def _access_log(self) -> list[Middleware]:
        if not self._parts.settings.access_log:
            return []
        write = partial(get_logger("narthex.access").info, "request")
        return [Middleware(AccessLog, address=self.http.address, write=write)]

    def status_components(self) -> list[Component]:
        """The components of the status page, which the lifecycle opens before the engines."""
        parts = self._parts
        return self.status.components(
            self.health, lambda: parts.lifecycle.fault, parts.meter, parts.core.node
        )

    def components(self) -> list[Component]:
        """The components that the lifecycle opens beside those of the parts."""
        expiry = CredentialExpiry(self._parts.store.credentials, clock=self._parts.now)
        components = [Component("expiry", expiry.start, expiry.stop)]
        if self.provider is not None:
            components.append(Component("provider", self._start_provider))
        if self.code_flow is not None:
            components.append(Component("sign-in", close=self.code_flow.stop))
        return components

    async def _start_provider(self) -> None:
        """Check that a minted token is admitted, unless the embedding program verifies tokens itself."""
        assert self.provider is not None
        await self.provider.start(verify_mint=self._parts.verifier is self._parts.tokens.verifier)

    def _make_provider(self) -> Provider | None:
        parts, settings = self._parts, self._parts.settings
        mint = parts.tokens.provider_keys
        if mint is None:
            return None
        return make_provider(
            settings,
            credentials=parts.store.credentials,
            mint=mint,
            verifier=parts.verifier,
            revocations=parts.core.revocations,
            meter=parts.meter,
            clock=parts.now,
        )

    def _auth_routes(self, keys: Sequence[str]) -> Sequence[BaseRoute]:
        if self.provider is None:
            return []
        site = AuthRoutes(
            provider=self.provider,
            verifier=self._parts.verifier,
            revocations=self._parts.core.revocations,
            rules=self.http,
            service_keys=keys,
            open_introspection=not keys and not self._parts.policy.environment.remote,
            clock=self._parts.now,
        )
        if self.code_flow is None:
            return site.routes()
        sign_in = SignIn(self.provider, self.code_flow, self._parts.store.credentials, clock=self._parts.now)
        return [*site.routes(), *OidcRoutes(sign_in, site, self.http).routes()]

    def _api(self) -> ServerApi:
        parts = self._parts
        return ServerApi(
            access=self.access,
            broker=parts.broker,
            store=parts.store,
            chat=parts.core.chat,
            exports=parts.core.exports,
            engine=parts.core.engine,
            revocations=parts.core.revocations,
            provider=self.provider,
            meter=parts.meter,
            drain=parts.drains.request,
            environment=parts.settings.environment,
        )

    def _operator_api(self) -> OperatorApi:
        return OperatorApi(
            access=self.access,
            fleet=self._parts.fleet,
            records=self._parts.store.records,
            history=HistoryReader(self._parts.store.history),
            buckets={metric.name: metric.buckets for metric in CATALOGUE if metric.kind == "histogram"},
        )

    # -- health --------------------------------------------------------------------------------------------

    def _make_health(self, address: SelfAddress) -> Health:
        parts = self._parts

        async def ticket() -> str:
            fresh = secrets.token_urlsafe(24)
            await issue_probe_ticket(parts.store.credentials, fresh, parts.now())
            return fresh

        def promised(engine: Broker | Store) -> str:  # in production it is for operators, in /ws/stats
            return "" if parts.policy.environment.remote else engine.durability

        probe = SelfProbe(lambda: address, ticket, auth_required=parts.policy.pre_connection_auth_required)
        checks: dict[str, Check] = {
            "handshake": probe,
            "auth": auth_check(parts.verifier),
            "broker": ping_check(parts.broker.ping, lambda: promised(parts.broker)),
            "store": ping_check(parts.store.ping, lambda: promised(parts.store)),
            "agents": agents_check(parts.core.engine.agents.values(), parts.core.engine.missing_agents)
            if parts.settings.run_agents
            else workers_check(parts.broker, parts.core.engine.agents),
        }
        config: dict[str, object] = {
            **parts.core.config.limits.advertised(),
            "max_connections_per_user": parts.core.config.limits.max_connections_per_user
            or {name: plan.connections for name, plan in parts.core.config.plans.items()},
            "heartbeat_interval": parts.core.config.limits.ping_interval_s,
        }
        return make_health(parts.settings, checks, parts.lifecycle, parts.meter, log, config=config)

    def _health_pages(self) -> HealthPages:
        parts = self._parts
        limits = parts.core.config.limits.advertised()
        body = client_config(
            environment=parts.settings.environment,
            version=__version__,
            auth_required=parts.policy.pre_connection_auth_required,
            guests=parts.policy.guests,
            limits=limits,
            plans={name: _plan_fields(plan) for name, plan in parts.core.config.plans.items()},
            provider=self.provider is not None and self.provider.takes_passwords,
            oidc_start="/auth/oidc/start" if self.code_flow is not None and self.provider is not None else "",
        )

        def config(request: Request) -> Mapping[str, object]:
            facts, root = self.http.facts(request), root_path(request.scope)
            url = facts.base_url.replace("http", "ws", 1) + endpoints.WEBSOCKET
            return with_root(body, root) | {"url": url}

        return HealthPages(
            self.health,
            config=config,
            stats=self._stats,
            metrics=parts.meter.scraped,
            access=self.access,
            rules=self.http,
        )

    async def _stats(self) -> Mapping[str, object]:
        parts = self._parts
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(0)
        return {
            "node": parts.core.node,
            "state": parts.state(),
            "connections": parts.core.limiter.total,
            "unproven": parts.core.limiter.unproven,
            "tcp_connections": self._tcp_connections(),
            "users": parts.core.registry.users(),
            "channels": parts.core.hub.channels(),
            "runs": parts.core.engine.active,
            "commands_in_flight": len(parts.core.tasks),
            "loop_turn_ms": round((loop.time() - began) * 1000, 3),
            "durability": {"broker": parts.broker.durability, "store": parts.store.durability},
            **parts.meter.numbers(),
        }


def _plan_fields(plan: object) -> dict[str, object]:
    fields: Sequence[str] = getattr(plan, "__struct_fields__", ())
    return {name: getattr(plan, name) for name in fields if name != "name"}


def _runbook(name: str) -> str:
    alert = find(name)
    assert alert is not None  # routes are made of the table
    return runbook(alert)
