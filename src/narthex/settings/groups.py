"""Declares every option of narthex once: name, type, default, bounds and a line of help. Reads nothing.

Not here: the settings as a whole (`model.py`), where values come from (`sources.py`), rules between options
(`rules.py`), how they are shown (`description.py`). Rules: a limit's default is `domain.limits`'s own;
docs/settings.md is generated from this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel

from narthex.domain.limits import Limits
from narthex.settings.options import Secret, Words, option
from narthex.settings.tables import IssuerSettings, PlanSettings, UserSettings


class ServerOptions(BaseModel):
    """Where and how the process serves."""

    environment: str = option(
        "development",
        "development, testing, staging or production. Must be set on Cloud Run and Kubernetes.",
        variables=("ENVIRONMENT",),
        only_environment=True,
    )
    host: str = option(
        "",
        "Address to listen on.",
        flag="--host",
        default_text="`127.0.0.1` in development and testing, `0.0.0.0` in staging and production",
    )
    port: int = option(8000, "Port; 0 picks a free one.", variables=("PORT",), flag="--port", ge=0, le=65535)
    uds: Path | None = option(
        None,
        "Listen on a Unix socket at this path, not on a port. Its peers count as 127.0.0.1.",
        flag="--uds",
    )
    fd: int | None = option(
        None,
        "Listen on the socket that the parent process left open as this descriptor, not on a port.",
        flag="--fd",
        ge=0,
        le=65_535,
    )
    data_dir: Path = option(
        Path("narthex-data"),
        "Directory of the embedded broker, store and signing keys.",
        flag="--data-dir",
    )
    agents: Words = option(
        (),
        "Agents: `module:function`, `module:agent`, `agui+https://…`, `openai+http://…#model`, `smollm`, `concierge`.",
        variables=("NARTHEX_AGENT",),
        flag="--agent",
        default_text="the built-in concierge",
    )
    agent_secrets: Secret | None = option(
        None,
        "Tokens of remote agents, `name=secret`, separated by commas or line breaks; a name as in `name=SPEC`.",
        secret=True,
    )
    workers: int = option(1, "Number of processes that share the port.", flag="--workers", ge=1, le=64)
    public_url: str = option(
        "",
        "How clients reach this gateway, without a path: for `/ws/config` and sign-in, and the embedded "
        "provider's issuer.",
        default_text="`http://` + host and port",
    )
    root_path: str = option(
        "",
        "The path under which clients reach this server behind a proxy that removes it, such as `/chat`: links, "
        "redirects, cookies and documents then have it. Requests come without it.",
        flag="--root-path",
        default_text="none: at the root of its host",
    )
    drain_grace_s: float = option(
        10.0, "Seconds from SIGTERM to the end (Cloud Run gives 10).", ge=0, le=3600
    )
    max_socket_life_s: float | None = option(
        None,
        "Seconds after which a socket is closed so that its client reconnects before the platform cuts it; 0: never.",
        default_text="`3300` on Cloud Run, else `0`",
        ge=0,
        le=604_800,
    )
    run_agents: bool = option(
        True, "Run agents in the gateway; off: `narthex worker` processes run them.", flag="--run-agents"
    )
    secrets_refresh_s: float = option(
        60.0,
        "Seconds between looks at secrets in files and in Secret Manager, which may have been renewed; 0: never.",
        ge=0,
        le=86_400,
    )
    single_instance: bool = option(
        False, "Promise that only one instance runs: lets SQLite serve on Cloud Run."
    )
    allow_remote_development: bool = option(
        False,
        "Let development and testing listen beyond loopback.",
        flag="--allow-remote-development",
    )


class LogOptions(BaseModel):
    """What the process logs and traces."""

    log_format: Literal["auto", "json", "console"] = option(
        "auto",
        "json for machines, console for people.",
        flag="--log-format",
        default_text="`console` on a terminal, else `json`",
    )
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info",
        "Lowest level that is written; handshake records are debug.",
        flag="--log-level",
        fallback="LOG_LEVEL",
    )
    access_log: bool = option(
        False,
        "Log each HTTP request, each handshake and each connection's end, at info.",
        flag="--access-log",
    )
    trust_traceparent: bool = option(
        False,
        "Let a client's `traceparent` decide whether its trace is recorded: only behind a proxy that sets the header.",
    )
    trace_payloads: bool = option(
        False, "Let operators see payloads in live traces of a user; credentials never are. docs/dashboard.md"
    )


class AdmissionOptions(BaseModel):
    """Which hosts, origins and proxies may open a connection."""

    allow_anonymous: bool = option(
        False,
        "Admit guests from allowed origins; development and testing only.",
        flag="--allow-anonymous",
    )
    allowed_origins: Words = option(
        (),
        "Origins of pages that may connect, as `https://app.example.com`.",
        default_text="the gateway's own origin",
    )
    allowed_hosts: Words = option(
        (),
        "Host names that requests may use; `*.example.com` allows subdomains. Production needs this or `public_url`.",
        default_text="the host of `public_url`; loopback names outside production",
    )
    trusted_proxies: Words = option(
        (),
        "Addresses or networks of proxies whose forwarding headers count, or how many hops to trust (`1`).",
        default_text="none; the last hop on Cloud Run",
        fallback="FORWARDED_ALLOW_IPS",
    )
    direct_membership: Words = option(
        (),
        "Tenants whose users are added to threads at once, without an invitation; `*`: all. `e2e` always is one.",
        default_text="users are invited and accept",
    )
    admin_key: Secret | None = option(
        None, "Key of the server API, `/ws/stats` and the dashboard.", secret=True
    )
    metrics_token: Secret | None = option(
        None,
        "Bearer token that `/metrics` requires; the admin key is accepted as well.",
        secret=True,
        default_text="not set: programs of this machine, trusted scrapers and the admin key read `/metrics`",
    )
    trusted_scrapers: Words = option(
        (),
        "Addresses or networks that read `/metrics` without a token.",
        default_text="none; without a token, programs of this machine",
    )
    metrics_port: int | None = option(
        None,
        "One more port for `/metrics`, `/livez` and `/readyz`, without a token: keep it inside the network.",
        flag="--metrics-port",
        default_text="none",
        ge=0,
        le=65535,
    )


class TokenOptions(BaseModel):
    """Token issuers whose tokens are admitted. The flat options describe one issuer; `[[issuers]]` adds more."""

    jwt_secret: Secret | None = option(None, "HMAC secret, at least 32 bytes.", secret=True)
    jwt_public_key: str | None = option(
        None, "Public key: PEM, JWK or JWK set, as text.", secret=True, default_text="not set"
    )
    jwks_url: str | None = option(None, "URL of the issuer's key set.")
    oidc_issuer: str | None = option(None, "URL of an OpenID provider; its discovery names the key set.")
    oidc_client_id: str | None = option(
        None,
        "Client id at NARTHEX_OIDC_ISSUER: users sign in there on the pages (callback `/auth/oidc/callback`).",
    )
    oidc_client_secret: Secret | None = option(
        None, "Client secret at NARTHEX_OIDC_ISSUER; a public client has none.", secret=True
    )
    introspection_url: str | None = option(None, "RFC 7662 end point for opaque tokens.")
    introspection_client_id: str | None = option(None, "Client id for introspection.")
    introspection_client_secret: Secret | None = option(None, "Client secret for introspection.", secret=True)
    jwt_issuer: str | None = option(
        None, "Required `iss`.", default_text="NARTHEX_OIDC_ISSUER if set, else not checked"
    )
    jwt_audience: Words = option((), "Accepted `aud`.", default_text="`aud` is not checked")
    jwt_audience_claim: str = option(
        "aud",
        "Claim that holds the audience: `client_id` for Cognito's access tokens, `azp` for Keycloak's and Clerk's.",
    )
    jwt_tenant: str = option(
        "",
        "Tenant of all users of this issuer; no other source of identities may name it.",
        default_text="by claim",
    )
    jwt_tenants: Words = option(
        (),
        "Tenants that this issuer's tokens may name; `*` at the end matches the rest. One of the two is required "
        "where there are several sources of identities.",
        default_text="any",
    )
    jwt_permissions_allowed: Words | None = option(
        None,
        "Permissions that this issuer may give; others are dropped.",
        default_text="all; with several sources all but `operator`, and in shared tenants not `admin` either",
    )
    jwt_plans_allowed: Words | None = option(
        None, "Plans that this issuer may assign; others count as `free`.", default_text="all"
    )
    jwt_algorithms: Words = option(
        (), "Allowed algorithms.", default_text="`HS256` for a secret, `RS256, ES256, EdDSA` for public keys"
    )
    jwt_leeway_s: float = option(30.0, "Seconds of clock difference to tolerate.", ge=0, le=300)
    token_grace_s: float = option(
        25.0, "Seconds after `exp` before a live connection is closed (3005).", ge=0, le=300
    )
    claim_tenant: str = option("tenant", "Claim that holds the tenant; a dot reaches into an object.")
    claim_plan: str = option("plan", "Claim that holds the plan.")
    claim_permissions: str = option("permissions", "Claim that holds the permissions (list or words).")
    claim_name: str = option("name", "Claim that holds the display name.")
    claim_e2e: str = option("e2e", "Claim that marks a test identity.")
    claim_test_run: str = option("test_run", "Claim that holds the test run.")
    provider_tenants: Words = option(
        (),
        "Tenants that the embedded provider may name, to share them with an issuer that lists them too.",
        default_text="those of `[[users]]`; `default` where login needs no password",
    )
    embedded_provider: Literal["auto", "on", "off"] = option(
        "auto",
        "The embedded sign-in provider under `/auth`.",
        default_text="on unless an issuer is configured; on in development and testing, and for sign-in with OIDC",
    )


class E2eOptions(BaseModel):
    """End-to-end tests. E2E_TESTING, PYTEST_RUNNING, STAGING_E2E_TEST and E2E_TEST_ENV are read too."""

    e2e_key: Secret | None = option(
        None,
        "Key that admits test identities, at least 32 characters. Never in production.",
        variables=("E2E_OAUTH_SIMULATION_KEY",),
        secret=True,
        only_environment=True,
    )
    e2e_previous_key: Secret | None = option(
        None, "The previous key, during a rotation. Never in production.", secret=True
    )
    e2e_oidc_issuer: str | None = option(
        None, "CI's OpenID issuer, whose tokens the simulation exchange accepts instead of the key."
    )
    e2e_oidc_audience: Words = option(
        (),
        "Required `aud` of CI's tokens: the audience that the workflow asks for, best this gateway's URL.",
        default_text="not set: required with NARTHEX_E2E_OIDC_ISSUER",
    )
    e2e_oidc_subject: str | None = option(
        None, "Required `sub` of CI's tokens; `*` at the end, after `:` or `/`, matches the rest."
    )
    e2e_permissions: Words = option(
        ("chat",), "Permissions of test identities; the caller cannot choose them."
    )
    conformance_echo: bool = option(
        False, "Serve `/ws/conformance`, a raw echo for protocol suites. Never in production."
    )


class EngineOptions(BaseModel):
    """Where events and records are kept."""

    broker_url: Secret | None = option(
        None,
        "`nats://…` or `redis://…`; several hosts: `a:4222,b:4222`. Percent-encode special characters of a password.",
        url=True,
        default_text="SQLite in the data directory",
    )
    store_url: Secret | None = option(
        None,
        "`postgresql://…`; several hosts, poolers and libpq's parameters: docs/scaling.md.",
        url=True,
        default_text="SQLite in the data directory",
    )
    sqlite_synchronous: Literal["normal", "full"] = option(
        "normal",
        "On SQLite acknowledged writes survive the process (`normal`), or a power cut too (`full`: a third as fast).",
    )


_LIMITS: Final = Limits()


def _limit(name: str, description: str, least: float, most: float) -> Any:
    """A limit of `domain.limits`, which has its default."""
    return option(getattr(_LIMITS, name), description, ge=least, le=most)


class LimitOptions(BaseModel):
    """docs/design.md#limits. What is advertised here is enforced."""

    handshake_timeout_s: float = _limit("handshake_timeout_s", "Seconds from accept to 101.", 0.1, 60)
    inband_timeout_s: float = _limit(
        "inband_timeout_s", "Seconds an inert connection has to authenticate.", 0.1, 60
    )
    max_head_bytes: int = _limit("max_head_bytes", "Request head.", 1024, 256 * 1024)
    max_headers: int = _limit("max_headers", "Most headers of a request.", 16, 1000)
    max_message_bytes: int = _limit(
        "max_message_bytes", "Largest message from a client.", 1024, 16 * 1024 * 1024
    )
    max_fragments: int = _limit(
        "max_fragments", "Most fragments of a message, including empty ones.", 1, 100_000
    )
    max_inflation_ratio: int = _limit(
        "max_inflation_ratio", "Largest ratio of inflated size to wire size.", 1, 1000
    )
    max_inflated_bytes: int = _limit(
        "max_inflated_bytes", "Largest inflated message.", 1024, 64 * 1024 * 1024
    )
    deflate: bool = option(False, "Offer permessage-deflate, without context takeover.")
    max_pending_bytes: int = _limit(
        "max_pending_bytes", "Most unsent bytes for one client.", 16 * 1024, 256 * 1024 * 1024
    )
    max_lag_s: float = _limit(
        "max_lag_s", "Seconds a client may lag before its connection is closed (3008).", 1, 300
    )
    commands_per_s: float = _limit("commands_per_s", "Commands per second of one connection.", 1, 100_000)
    commands_burst: int = _limit("commands_burst", "Burst of commands.", 1, 1_000_000)
    control_frames_per_s: float = _limit(
        "control_frames_per_s", "Pings and pongs per second of one connection.", 1, 10_000
    )
    http_requests_per_s: float = _limit(
        "http_requests_per_s",
        "HTTP requests per second of one user; ten times as many per address.",
        1,
        100_000,
    )
    http_requests_burst: int = _limit(
        "http_requests_burst",
        "Burst of HTTP requests of one user; ten times as many per address.",
        1,
        1_000_000,
    )
    max_connections_per_user: int | None = option(
        None, "Connections of one user, instead of the plan's.", ge=1, le=100_000, default_text="by plan"
    )
    max_connections_per_address: int = _limit(
        "max_connections_per_address", "Connections of one client address.", 1, 1_000_000
    )
    max_connections_unauthenticated: int = _limit(
        "max_connections_unauthenticated", "Connections that have not authenticated.", 1, 1_000_000
    )
    max_connections: int = _limit("max_connections", "Connections of the whole process.", 1, 1_000_000)
    max_json_depth: int = _limit("max_json_depth", "Deepest nesting of a client's JSON.", 4, 512)
    ping_interval_s: float = _limit("ping_interval_s", "Seconds between pings, which renew presence.", 1, 55)
    pong_timeout_s: float = _limit("pong_timeout_s", "Seconds to wait for a pong (3012).", 0.5, 300)


class RunOptions(BaseModel):
    """How long runs and their questions may take, and how many may wait."""

    run_deadline_s: float = option(
        600.0, "Seconds an agent may take for a run; then it ends as `agent_timeout`.", ge=1, le=86_400
    )
    run_answer_s: float = option(
        900.0, "Seconds for which an agent's question (an approval) stays open.", ge=1, le=604_800
    )
    run_queue_limit: int = option(20, "Most queued runs of a thread; one more gets 429.", ge=0, le=1000)
    history_purge_every_s: float = option(
        600.0,
        "Seconds between purges of history past `history_days` of its owner's plan; it is hidden meanwhile.",
        ge=1,
        le=86_400,
    )


class GuardOptions(BaseModel):
    """`narthex guard`: the server behind, and what reaches it."""

    upstream: str = option(
        "",
        "URL of the server behind `narthex guard`, without a path: `ws://127.0.0.1:9000`, `wss://…`, `http://…`.",
        flag="--upstream",
        default_text="not set: required by `narthex guard`",
    )
    upstream_paths: Words = option(
        ("/ws",),
        "Paths of its WebSockets, which `narthex guard` admits to; `{name}` matches one segment, `*` at the end any "
        "rest.",
        flag="--path",
    )
    upstream_name: str = option(
        "",
        "The `aud` of the assertions that `narthex guard` signs.",
        default_text="host and port of the upstream",
    )
    upstream_timeout_s: float = option(
        5.0,
        "Seconds that the upstream has for its answer to a handshake, or to begin one to a request.",
        ge=0.1,
        le=60,
    )
    verify_only: bool = option(
        False,
        "Answer proxies at `/ws/verify` and relay nothing: `narthex guard` without an upstream.",
        flag="--verify-only",
    )
    pass_http: bool = option(
        False,
        "Pass plain HTTP requests to the upstream too, with their credentials and without any check.",
        flag="--pass-http",
    )


class StatusOptions(BaseModel):
    """The public status page, and where samples for it go (docs/status-page.md)."""

    status_page: Literal["auto", "on", "off"] = option(
        "auto",
        "Serve `/status` from this gateway, with `status.db` in the data directory.",
        default_text="on; off where instances have no common disk (`K_SERVICE`, `KUBERNETES_SERVICE_HOST`) unless "
        "NARTHEX_SINGLE_INSTANCE=1; with NARTHEX_STATUS_URL `/status` leads there",
    )
    status_url: str = option(
        "",
        "URL of a `narthex status serve`, to which this gateway sends its samples instead.",
        default_text="not set: the page of this gateway",
    )
    status_token: Secret | None = option(
        None, "Token with which gateways and probes may send samples, and nothing else.", secret=True
    )
    status_name: str = option("narthex", "Name of the service on the page.", min_length=1, max_length=80)
    status_logo: Path | None = option(None, "Image file of the logo: SVG, PNG, JPEG or WebP, at most 256 KB.")
    status_links: Words = option((), "Links of the page, `Text=https://…`.")
    status_timezone: str = option("UTC", "Time zone of the page's days and times, as `Europe/Berlin`.")
    status_language: Literal["en", "de"] = option("en", "Language of the page.")
    status_components: Words = option(
        (),
        "More components for probes to report, `id=Name`, or another name for one of `connect`, `send`, `stream`, "
        "`sign_in`.",
    )
    status_webhooks: Secret | None = option(
        None,
        "Receivers of events, `https://…=whsec_…`, separated by commas or line breaks; one twice has two secrets.",
        secret=True,
    )


class TableOptions(BaseModel):
    """Tables of `narthex.toml`; they have no variable."""

    issuers: tuple[IssuerSettings, ...] = ()
    users: tuple[UserSettings, ...] = ()
    plans: dict[str, PlanSettings] = {}


GROUPS: Final[tuple[tuple[str, type[BaseModel]], ...]] = (
    ("Server", ServerOptions),
    ("Logs", LogOptions),
    ("Admission", AdmissionOptions),
    ("Tokens", TokenOptions),
    ("End-to-end tests", E2eOptions),
    ("Engines", EngineOptions),
    ("Limits", LimitOptions),
    ("Runs", RunOptions),
    ("Guard", GuardOptions),
    ("Status page", StatusOptions),
)
"""The order of docs/settings.md and of `narthex check`."""


def option_fields() -> dict[str, tuple[str, Any]]:
    """Every flat option in order: name → (section, pydantic's field)."""
    found: dict[str, tuple[str, Any]] = {}
    for section, group in GROUPS:
        for name, field in group.model_fields.items():
            found[name] = (section, field)
    return found
