"""Rules between options: what each environment and platform demands, and what contradicts itself.

Not here: bounds of one option (`model.py`), who gets in (`narthex.domain.environment`, which decides the table
of DESIGN section 2). Rules: a rule is a function that yields problems or warnings, each one or two sentences
that name the variable and the remedy; none raises; none reads anything but its arguments.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from narthex.settings.issuer_rules import issuer_problems
from narthex.settings.model import Settings

E2E_VARIABLES = (
    "E2E_TESTING",
    "PYTEST_RUNNING",
    "STAGING_E2E_TEST",
    "E2E_OAUTH_SIMULATION_KEY",
    "E2E_TEST_ENV",
)
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
BROKER_SCHEMES = ("sqlite", "nats", "tls", "redis", "rediss")
STORE_SCHEMES = ("sqlite", "postgresql", "postgres")
MIN_KEY_LENGTH = 32  # DESIGN section 2: shorter end-to-end keys work, with a warning
MIN_ADMIN_KEY_LENGTH = 16


def settle(
    settings: Settings, environ: Mapping[str, str], sources: Mapping[str, str]
) -> tuple[Settings, dict[str, str]]:
    """Fill in what depends on the environment: host, platform, trusted proxies, public URL.

    Returns:
        The settings, and a source for each option that was filled in.
    """
    changes: dict[str, object] = {}
    derived: dict[str, str] = {}
    platform = _platform(environ)
    changes["platform"] = platform
    if not settings.host:
        remote = settings.remote or settings.allow_remote_development
        changes["host"] = "0.0.0.0" if remote else "127.0.0.1"  # noqa: S104 - DESIGN section 3 asks for it
        derived["host"] = f"ENVIRONMENT={settings.environment}"
    if platform == "cloud-run" and "trusted_proxies" not in sources:
        changes["trusted_proxies"] = ("1",)  # DESIGN section 3: on Cloud Run the last hop
        derived["trusted_proxies"] = "K_SERVICE"
    return settings.model_copy(update=changes), derived


def _platform(environ: Mapping[str, str]) -> str:
    if environ.get("K_SERVICE"):
        return "cloud-run"
    return "kubernetes" if environ.get("KUBERNETES_SERVICE_HOST") else ""


def judge(
    settings: Settings,
    environ: Mapping[str, str],
    e2e: Mapping[str, str],
    broken: frozenset[str],
    sources: Mapping[str, str],
) -> tuple[list[str], list[str]]:
    """Hold every rule.

    Args:
        settings: settled; an option that was wrong has its default and is named in `broken`.
        environ: the process's environment.
        e2e: those of the five variables that are present.
        broken: options whose rules must not speak, because their value is already a problem.
        sources: where each given option came from.

    Returns:
        Problems and warnings.
    """
    problems = [
        *environment_problems(environ, e2e),
        *_production(settings, broken),
        *_listening(settings, broken, sources),
        *_lists(settings),
        *_engines(settings),
        *_e2e(settings),
        *_limits(settings),
        *_data_dir(settings),
    ]
    if "issuers" not in broken:
        problems += issuer_problems(settings)
    return problems, [*_warnings(settings)]


def environment_problems(environ: Mapping[str, str], e2e: Mapping[str, str]) -> Iterator[str]:
    """The rules of DESIGN section 2 that refuse a start."""
    yield from ()


def _production(settings: Settings, broken: frozenset[str]) -> Iterator[str]:
    if not settings.is_production:
        return
    if not settings.allowed_hosts and "allowed_hosts" not in broken:
        yield (
            "NARTHEX_ALLOWED_HOSTS is not set in production. Set it to the host names that clients use, "
            "for example chat.example.com."
        )
    if "*" in settings.allowed_hosts:
        yield "NARTHEX_ALLOWED_HOSTS is * in production. Name the hosts that clients use."
    if settings.conformance_echo:
        yield "NARTHEX_CONFORMANCE_ECHO is set in production. Unset it; it echoes without limits of a user."
    if settings.e2e_previous_key:
        yield "NARTHEX_E2E_PREVIOUS_KEY is set in production. Unset it; test identities are never admitted there."
    if settings.e2e_oidc_issuer:
        yield "NARTHEX_E2E_OIDC_ISSUER is set in production. Unset it; test identities are never admitted there."
    for user in settings.users:
        if user.password_hash is None:
            yield f"users: {user.email} has no password_hash in production. Add one: narthex auth hash."


def _listening(settings: Settings, broken: frozenset[str], sources: Mapping[str, str]) -> Iterator[str]:
    if settings.remote:
        if settings.allow_anonymous:
            yield (
                f"NARTHEX_ALLOW_ANONYMOUS is set in {settings.environment}. Unset it; guests are for "
                "development and testing."
            )
        return
    if "host" in broken or settings.allow_remote_development:
        return
    if not is_loopback(settings.host):
        label = sources.get("host", "NARTHEX_HOST")
        yield (
            f"{label}={settings.host} is not loopback, and ENVIRONMENT is {settings.environment}. Set ENVIRONMENT "
            "to staging or production, or give --allow-remote-development."
        )


def is_loopback(host: str) -> bool:
    """Whether `host` is a loopback name or address."""
    if host in LOOPBACK_HOSTS:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _lists(settings: Settings) -> Iterator[str]:
    for origin in settings.allowed_origins:
        parts = _url(origin)
        if origin == "*":
            yield (
                "NARTHEX_ALLOWED_ORIGINS is *, which lets any page act for a signed-in user. "
                "Name the pages' origins."
            )
        elif parts is None or parts.path or parts.query or parts.fragment:
            yield (
                f"NARTHEX_ALLOWED_ORIGINS has {origin!r}, which is no origin. Write scheme and host only, "
                "for example https://app.example.com."
            )
    for host in settings.allowed_hosts:
        if host != "*" and ("/" in host or not host.strip("*.")):
            yield (
                f"NARTHEX_ALLOWED_HOSTS has {host!r}, which is no host name. Write it without scheme and "
                "path, for example chat.example.com."
            )
    for proxy in settings.trusted_proxies:
        if not _is_proxy(proxy):
            yield (
                f"NARTHEX_TRUSTED_PROXIES has {proxy!r}. Write addresses or networks (10.0.0.0/8), or a number "
                "of hops from 1 to 8."
            )
    if any(proxy.isdigit() for proxy in settings.trusted_proxies) and len(settings.trusted_proxies) > 1:
        yield "NARTHEX_TRUSTED_PROXIES mixes a number of hops with more. Give the number alone, or networks."
    url = _url(settings.public_url)
    if settings.public_url and (url is None or url.path.strip("/") or url.query):
        yield (
            f"NARTHEX_PUBLIC_URL={settings.public_url!r} is no base URL. Write scheme and host only, for example "
            "https://chat.example.com."
        )


def _is_proxy(text: str) -> bool:
    if text.isdigit():
        return 1 <= int(text) <= 8
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _url(text: str) -> SplitResult | None:
    """`text` as an http(s) URL with a host, or None."""
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        return None
    return parts if parts.scheme in ("http", "https") and parts.hostname and port_is_fine else None


def _engines(settings: Settings) -> Iterator[str]:
    pairs = (("NARTHEX_BROKER_URL", settings.broker_url, BROKER_SCHEMES),)
    for variable, url, schemes in (*pairs, ("NARTHEX_STORE_URL", settings.store_url, STORE_SCHEMES)):
        scheme = url.get_secret_value().partition(":")[0] if url else "sqlite"
        if scheme not in schemes:
            yield f"{variable} has an unknown scheme. Begin it with {', '.join(s + '://' for s in schemes[1:])}."
        elif scheme == "sqlite" and settings.platform == "cloud-run" and not settings.single_instance:
            yield (
                f"{variable} is not set and K_SERVICE is: on Cloud Run each instance would have a SQLite of its "
                f"own. Set {variable}, or NARTHEX_SINGLE_INSTANCE=1 if there is only ever one instance."
            )


def _e2e(settings: Settings) -> Iterator[str]:
    if bool(settings.e2e_oidc_issuer) != bool(settings.e2e_oidc_subject):
        yield (
            "NARTHEX_E2E_OIDC_ISSUER and NARTHEX_E2E_OIDC_SUBJECT belong together. Set both: an issuer alone "
            "would admit every workflow that it signs for."
        )
    if settings.e2e_oidc_subject and not settings.e2e_oidc_subject.strip("*"):
        yield "NARTHEX_E2E_OIDC_SUBJECT is *, which admits every workflow. Name the repository at least."
    if settings.e2e_previous_key and not settings.e2e_key:
        yield (
            "NARTHEX_E2E_PREVIOUS_KEY is set and E2E_OAUTH_SIMULATION_KEY is not. Set the current key, or unset "
            "the previous one."
        )


def _limits(settings: Settings) -> Iterator[str]:
    if settings.pong_timeout_s >= settings.ping_interval_s:
        yield (
            f"NARTHEX_PONG_TIMEOUT_S ({settings.pong_timeout_s:g}) is not below NARTHEX_PING_INTERVAL_S "
            f"({settings.ping_interval_s:g}). Lower it, so that a missed pong is seen before the next ping."
        )
    if settings.max_inflated_bytes < settings.max_message_bytes:
        yield "NARTHEX_MAX_INFLATED_BYTES is below NARTHEX_MAX_MESSAGE_BYTES. Raise it to at least that."
    if settings.commands_burst < settings.commands_per_s:
        yield "NARTHEX_COMMANDS_BURST is below NARTHEX_COMMANDS_PER_S. Raise it to at least that."
    if settings.max_pending_bytes < settings.max_message_bytes:
        yield "NARTHEX_MAX_PENDING_BYTES is below NARTHEX_MAX_MESSAGE_BYTES. Raise it to at least that."
    if settings.max_connections_unauthenticated > settings.max_connections:
        yield "NARTHEX_MAX_CONNECTIONS_UNAUTHENTICATED is above NARTHEX_MAX_CONNECTIONS. Lower it to at most that."


def _data_dir(settings: Settings) -> Iterator[str]:
    path = Path(settings.data_dir)
    existing = next((p for p in (path, *path.absolute().parents) if p.exists()), Path("/"))
    if not existing.is_dir():
        yield f"NARTHEX_DATA_DIR={path}: {existing} is a file. Name a directory."
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"NARTHEX_DATA_DIR={path}: {existing} cannot be written by this user. Change its owner, or name another."


def _warnings(settings: Settings) -> Iterator[str]:
    if settings.environment != "development":
        for variable, key in (
            ("E2E_OAUTH_SIMULATION_KEY", settings.e2e_key),
            ("NARTHEX_E2E_PREVIOUS_KEY", settings.e2e_previous_key),
        ):
            if key and len(key.get_secret_value()) < MIN_KEY_LENGTH:
                yield (
                    f"{variable} is shorter than {MIN_KEY_LENGTH} characters. Make a longer one: "
                    "openssl rand -hex 32."
                )
    if settings.admin_key and len(settings.admin_key.get_secret_value()) < MIN_ADMIN_KEY_LENGTH:
        yield f"NARTHEX_ADMIN_KEY is shorter than {MIN_ADMIN_KEY_LENGTH} characters. Make a longer one."
    if settings.remote and settings.allow_remote_development:
        yield f"NARTHEX_ALLOW_REMOTE_DEVELOPMENT has no effect in {settings.environment}. Unset it."
    if settings.platform == "cloud-run" and not settings.remote and is_loopback(settings.host):
        yield "The gateway listens on loopback, where Cloud Run cannot reach it. Set ENVIRONMENT=staging."
    if settings.is_production and settings.public_url.startswith("http://"):
        yield "NARTHEX_PUBLIC_URL is http:// in production. Serve it over https."
    if settings.remote and not settings.all_issuers() and not settings.users:
        yield (
            "No issuer and no users are configured: only tokens from `narthex token` are admitted. Set "
            "NARTHEX_OIDC_ISSUER, NARTHEX_JWKS_URL or NARTHEX_JWT_SECRET, or add [[users]]."
        )
