"""Rules between options: the demands of each environment and platform, and contradictions.

Not here: bounds of one option (`groups.py`), the environment's own rules (`narthex.domain.environment` decides
the table of docs/design.md#environments), what an origin, a host or a proxy looks like (`domain.origins`,
`domain.addresses`). Rules: a rule is a function that yields problems or warnings, each one or two sentences
that name the variable and the remedy; none raises; none reads anything but its arguments.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from narthex.adapters.stores.postgres_address import parse_postgres
from narthex.domain.addresses import TrustedProxies, parse_networks, parse_trusted_proxies
from narthex.domain.endpoints import http_url
from narthex.domain.engine_urls import BadEngineUrl, parse_engine_urls
from narthex.domain.environment import Environment, EnvironmentPolicy, decide, find_environment, is_loopback
from narthex.domain.origins import HostPolicy, OriginPolicy, parse_allowed_hosts, parse_allowed_origins
from narthex.domain.upstreams import parse_upstream
from narthex.errors import ConfigError
from narthex.settings.issuer_rules import issuer_problems, short_secrets
from narthex.settings.model import RuleResults, Settings
from narthex.settings.requirements import ALL_PARTS, Part
from narthex.settings.status_rules import status_problems
from narthex.settings.trust import ambiguities

BROKER_SCHEMES: Final = ("nats", "tls", "redis", "rediss", "valkey", "valkeys")
STORE_SCHEMES: Final = ("postgresql", "postgres")
ROOT_PATH: Final = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9\-._~]+)+")
MIN_ADMIN_KEY_LENGTH: Final = 16


def check_rules(
    settings: Settings,
    environ: Mapping[str, str],
    broken: frozenset[str],
    parts: Collection[Part] = ALL_PARTS,
    sources: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[str], RuleResults]:
    """Hold every rule; returns the problems, and the results for `Settings.seal`.

    Args:
        settings: an option that was wrong has its default and is named in `broken`.
        environ: the process's environment.
        broken: options whose rules are skipped, because their value is already a problem.
        parts: the engines that the process uses.
        sources: by option, of those that were given.
    """
    problems: list[str] = []
    environment = find_environment(environ)
    remote = isinstance(environment, Environment) and environment.remote
    production = environment is Environment.PRODUCTION
    decision = decide(
        environ,
        keys=settings.e2e_keys(),
        host=settings.host,
        allow_remote_development=settings.allow_remote_development,
        allow_anonymous=settings.allow_anonymous,
        conformance_echo=settings.conformance_echo,
    )
    policy = decision if isinstance(decision, EnvironmentPolicy) else None
    problems += decision if isinstance(decision, list) else []
    required = production and "allowed_hosts" not in broken
    origins = parse_allowed_origins(settings.allowed_origins)
    hosts = parse_allowed_hosts(settings.allowed_hosts, public_url=settings.public_url, required=required)
    proxies = _proxies(settings.trusted_proxies, sources.get("trusted_proxies", ""), environ, remote=remote)
    scrapers = parse_networks(settings.trusted_scrapers, "NARTHEX_TRUSTED_SCRAPERS")
    for parsed in (origins, hosts, proxies, scrapers):
        problems += parsed if isinstance(parsed, list) else []
    problems += _production(settings, production=production)
    for rule in (_urls, _admin_key, _agent_secrets, _apart, _e2e, _limits, _upstream, _data_dir, _listening):
        problems += rule(settings)
    problems += _engines(settings, platform_of(environ), parts)
    problems += status_problems(settings, remote=remote)
    if "issuers" not in broken:
        problems += issuer_problems(settings, remote=remote)
    return problems, RuleResults(
        policy,
        OriginPolicy() if isinstance(origins, list) else origins,
        HostPolicy() if isinstance(hosts, list) else hosts,
        TrustedProxies() if isinstance(proxies, list) else proxies,
        () if isinstance(scrapers, list) else scrapers,
        (*(policy.warnings if policy else ()), *_warnings(settings, policy)),
    )


def _proxies(
    words: tuple[str, ...], source: str, environ: Mapping[str, str], *, remote: bool
) -> TrustedProxies | list[str]:
    """The trusted proxies. `*`, which servers take in FORWARDED_ALLOW_IPS, would let each client choose its address."""
    borrowed = source == "FORWARDED_ALLOW_IPS"
    if not borrowed or "*" not in words:
        variable = source if borrowed else "NARTHEX_TRUSTED_PROXIES"
        return parse_trusted_proxies(words, platform=platform_of(environ), variable=variable)
    if remote:
        problem = (
            "FORWARDED_ALLOW_IPS=* trusts every client's forwarding headers, so that clients choose their address. Set "
            "NARTHEX_TRUSTED_PROXIES to your proxies' networks, or to the number of proxies in front (`1`)."
        )
        return [problem]
    return parse_trusted_proxies(("0.0.0.0/0", "::/0"))


def platform_of(environ: Mapping[str, str]) -> str:
    """`cloud-run`, `kubernetes` or empty."""
    if environ.get("K_SERVICE"):
        return "cloud-run"
    return "kubernetes" if environ.get("KUBERNETES_SERVICE_HOST") else ""


def _production(settings: Settings, *, production: bool) -> Iterator[str]:
    if not production:
        return
    if settings.e2e_oidc_issuer:
        yield "NARTHEX_E2E_OIDC_ISSUER is set, and ENVIRONMENT is production. Unset it, or test against staging."
    for user in settings.users:
        if user.password_hash is None:
            yield f"users: {user.email} has no password_hash, and ENVIRONMENT is production. Add one."


def _admin_key(settings: Settings) -> Iterator[str]:
    if settings.admin_key and "." in settings.admin_key.get_secret_value():
        yield (
            "NARTHEX_ADMIN_KEY contains a dot, which distinguishes a JWT from a key. Create one without a dot: "
            "openssl rand -hex 32."
        )


def _agent_secrets(settings: Settings) -> Iterator[str]:
    text = settings.agent_secrets.get_secret_value() if settings.agent_secrets else ""
    entries = [entry for entry in text.replace("\n", ",").split(",") if entry.strip()]
    if len(entries) != len(settings.agent_secrets_by_name()):
        yield (
            "NARTHEX_AGENT_SECRETS has an entry that is not name=secret, or a name twice. Write name=secret once per "
            "name, separated by commas."
        )


def _urls(settings: Settings) -> Iterator[str]:
    if settings.root_path and not ROOT_PATH.fullmatch(settings.root_path):
        yield (
            "NARTHEX_ROOT_PATH is no path without a slash at its end. Write it as the proxy has it, for example /chat; "
            "letters, digits and `-._~` only."
        )
    if not settings.public_url:
        return
    parts = http_url(settings.public_url)
    if parts is None or parts.path.strip("/") or parts.query or parts.username:
        yield (
            "NARTHEX_PUBLIC_URL is not a base URL. Write scheme and host only, for example https://chat.example.com; "
            "a path belongs in NARTHEX_ROOT_PATH."
        )


def _apart(settings: Settings) -> Iterator[str]:
    if settings.run_agents or (settings.broker_url and settings.store_url):
        return
    yield (
        "NARTHEX_RUN_AGENTS is 0, so that `narthex worker` processes run the agents, and those need engines that they "
        "can share. Set NARTHEX_BROKER_URL and NARTHEX_STORE_URL, or NARTHEX_RUN_AGENTS=1."
    )


def _engines(settings: Settings, platform: str, parts: Collection[Part]) -> Iterator[str]:
    engines = {
        "broker": ("NARTHEX_BROKER_URL", settings.broker_url, BROKER_SCHEMES),
        "store": ("NARTHEX_STORE_URL", settings.store_url, STORE_SCHEMES),
    }
    for variable, url, schemes in (engine for part, engine in engines.items() if part in parts):
        scheme = url.get_secret_value().partition(":")[0] if url else ""
        if scheme and scheme not in schemes:
            yield (
                f"{variable} has an unknown scheme. Begin it with {', '.join(s + '://' for s in schemes)}, or unset "
                "it for SQLite in the data directory."
            )
        elif url and schemes is STORE_SCHEMES:
            try:
                parse_postgres(url.get_secret_value())
            except ConfigError as fault:
                yield from fault.problems
        elif url and (reason := _unreadable(url.get_secret_value())):
            yield f"{variable} is not a valid engine URL: {reason}"
        elif not scheme and platform == "cloud-run" and not settings.single_instance:
            yield (
                f"{variable} is not set and K_SERVICE is: on Cloud Run each instance would have its own SQLite "
                f"files. Set {variable}, or NARTHEX_SINGLE_INSTANCE=1 if only one instance ever runs."
            )


def _unreadable(url: str) -> str:
    """The reason why an engine's URL is invalid; empty when it is valid."""
    try:
        parse_engine_urls(url)
    except BadEngineUrl as fault:
        return str(fault)
    return ""


def _e2e(settings: Settings) -> Iterator[str]:
    if bool(settings.e2e_oidc_issuer) != bool(settings.e2e_oidc_subject):
        yield (
            "NARTHEX_E2E_OIDC_ISSUER and NARTHEX_E2E_OIDC_SUBJECT must be set together. Set both: an issuer alone "
            "would admit every workflow that it issues tokens for."
        )
    if settings.e2e_oidc_issuer and not settings.e2e_oidc_audience:
        yield (
            "NARTHEX_E2E_OIDC_ISSUER is set and NARTHEX_E2E_OIDC_AUDIENCE is not: a token that a workflow got for "
            "another service would serve here too. Set the audience that your workflow asks for, best this "
            "gateway's URL."
        )
    subject = settings.e2e_oidc_subject
    if subject and not subject.strip("*"):
        yield "NARTHEX_E2E_OIDC_SUBJECT is *, which admits every workflow. Name the repository at least."
    elif subject and "*" in subject and not _whole_parts(subject):
        yield (
            f"NARTHEX_E2E_OIDC_SUBJECT is {subject[:100]!r}: a `*` stands at the end, after `:` or `/`, else "
            "`repo:acme/chat*` would admit repo:acme/chat-evil too. Write for example repo:acme/chat:*."
        )
    if settings.e2e_previous_key and not settings.e2e_key:
        yield (
            "NARTHEX_E2E_PREVIOUS_KEY is set and E2E_OAUTH_SIMULATION_KEY is not. Set the current key, or unset "
            "the previous one."
        )


def _whole_parts(subject: str) -> bool:
    return subject.count("*") == 1 and subject.endswith((":*", "/*"))


def _limits(settings: Settings) -> Iterator[str]:
    if settings.pong_timeout_s >= settings.ping_interval_s:
        yield (
            f"NARTHEX_PONG_TIMEOUT_S ({settings.pong_timeout_s:g}) is not below NARTHEX_PING_INTERVAL_S "
            f"({settings.ping_interval_s:g}). Lower it, so that a missed pong is detected before the next ping."
        )
    if settings.max_inflated_bytes < settings.max_message_bytes:
        yield "NARTHEX_MAX_INFLATED_BYTES is below NARTHEX_MAX_MESSAGE_BYTES. Raise it to at least that."
    if settings.commands_burst < settings.commands_per_s:
        yield "NARTHEX_COMMANDS_BURST is below NARTHEX_COMMANDS_PER_S. Raise it to at least that."
    if settings.max_pending_bytes < settings.max_message_bytes:
        yield "NARTHEX_MAX_PENDING_BYTES is below NARTHEX_MAX_MESSAGE_BYTES. Raise it to at least that."
    if settings.max_connections_unauthenticated > settings.max_connections:
        yield "NARTHEX_MAX_CONNECTIONS_UNAUTHENTICATED is above NARTHEX_MAX_CONNECTIONS. Lower it to at most that."


def _upstream(settings: Settings) -> Iterator[str]:
    if settings.upstream and isinstance(problem := parse_upstream(settings.upstream), str):
        yield f"NARTHEX_UPSTREAM {problem}"


def _listening(settings: Settings) -> Iterator[str]:
    if settings.uds is not None and settings.fd is not None:
        yield "NARTHEX_UDS and NARTHEX_FD name two sockets to listen on. Unset one of them."
    if settings.workers > 1 and (settings.uds is not None or settings.fd is not None):
        yield (
            "NARTHEX_WORKERS shares a port, which NARTHEX_UDS and NARTHEX_FD have not. Set NARTHEX_WORKERS=1, or "
            "listen on a port."
        )


def _data_dir(settings: Settings) -> Iterator[str]:
    path = Path(settings.data_dir)
    existing = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    if not existing.is_dir():
        yield f"NARTHEX_DATA_DIR={path}: {existing} is a file. Name a directory."
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"NARTHEX_DATA_DIR={path}: {existing} is not writable by this user. Change its owner, or name another."


DATA_FILES: Final = ("narthex.db", "log.db", "guard.db")  # status.db holds nothing secret
_OTHERS: Final = 0o077
_OTHERS_WRITE: Final = 0o022


def _open_data(settings: Settings) -> Iterator[str]:
    """Data that other users of this machine may read or replace. `serve` restricts the files, and its own directory."""
    directory = Path(settings.data_dir)
    for name in DATA_FILES:
        with contextlib.suppress(OSError):
            mode = (directory / name).stat().st_mode
            if mode & _OTHERS:
                yield (
                    f"{directory / name} is open to other users ({mode & 0o777:04o}); serve makes it 0600. It holds "
                    "signing keys, which may have been copied: narthex keys rotate --now."
                )
    with contextlib.suppress(OSError):
        found = directory.stat()
        if found.st_mode & _OTHERS_WRITE and not found.st_mode & 0o1000:
            yield (
                f"The data directory {directory} can be written by other users ({found.st_mode & 0o777:04o}): they "
                f"could replace its files. Close it: chmod go-w {directory}."
            )


def _warnings(settings: Settings, policy: EnvironmentPolicy | None) -> Iterator[str]:
    yield from _open_data(settings)
    yield from _short_keys(settings)
    if policy is None:
        return
    if policy.environment.remote:
        yield from _remote_warnings(settings, policy)
    else:
        yield from _local_warnings(settings)
    if settings.platform == "cloud-run" and is_loopback(policy.host):
        yield "The gateway listens on loopback, where Cloud Run cannot reach it. Set ENVIRONMENT=staging."
    if policy.is_production:
        yield from _production_warnings(settings)


def _short_keys(settings: Settings) -> Iterator[str]:
    for variable, keys in (
        ("NARTHEX_ADMIN_KEY", settings.admin_keys()),
        ("NARTHEX_METRICS_TOKEN", settings.metrics_tokens()),
        ("NARTHEX_STATUS_TOKEN", settings.status_tokens()),
    ):
        if keys and len(keys[0]) < MIN_ADMIN_KEY_LENGTH:
            yield (
                f"{variable} is shorter than {MIN_ADMIN_KEY_LENGTH} characters. Make a longer one: "
                "openssl rand -hex 32."
            )


def _local_warnings(settings: Settings) -> Iterator[str]:
    for ambiguity in ambiguities(settings, remote=False):
        yield f"{ambiguity} Staging and production refuse to start with this."
    yield from short_secrets(settings)


def _remote_warnings(settings: Settings, policy: EnvironmentPolicy) -> Iterator[str]:
    if not policy.is_production and not settings.allowed_hosts and not settings.public_url:
        yield (
            "NARTHEX_ALLOWED_HOSTS is not set: only loopback names are served, and any other Host is refused 400. Set "
            "it to the host names that clients use, or set NARTHEX_PUBLIC_URL."
        )
    if settings.allow_remote_development:
        yield f"NARTHEX_ALLOW_REMOTE_DEVELOPMENT has no effect in {policy.environment}. Unset it."
    if not settings.all_issuers() and not settings.users:
        yield (
            "No issuer and no users are configured: only tokens from `narthex token` (of a guard: "
            "`narthex token --guard`) are admitted. Set "
            "NARTHEX_OIDC_ISSUER, NARTHEX_JWKS_URL or NARTHEX_JWT_SECRET, or add [[users]]."
        )


def _production_warnings(settings: Settings) -> Iterator[str]:
    if not settings.metrics_tokens() and not settings.trusted_scrapers and settings.metrics_port is None:
        yield (
            "Only programs of this machine can read /metrics. Set NARTHEX_METRICS_TOKEN and give it to the scraper, "
            "name its network in NARTHEX_TRUSTED_SCRAPERS, or serve the metrics on NARTHEX_METRICS_PORT."
        )
    if settings.public_url.startswith("http://"):
        yield "NARTHEX_PUBLIC_URL is http:// in production. Serve it over https."
