"""Parses the address of a PostgreSQL store: hosts, and every libpq parameter that consoles and tools hand out.

Not here: connecting. Rules: a parameter is honoured, dropped with a note, or refused by name where dropping it would
change the meaning of the address; an unknown parameter is dropped with a note. Pure: the settings' check uses it too.
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from narthex.domain.engine_urls import BadEngineUrl, EngineUrl, Host, parse_engine_url
from narthex.errors import ConfigError

PORT: Final = 5432
CONNECT_S: Final = 5.0
SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
SESSION_ATTRS: Final = ("any", "read-write", "primary")
_DRIVER: Final = frozenset(
    (
        *("sslmode", "sslcert", "sslkey", "sslrootcert", "sslcrl", "sslpassword", "sslnegotiation"),
        *("passfile", "service"),
    )
) | {"ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"}
"""Honoured by asyncpg as libpq does."""
_HARMLESS: Final = frozenset(
    ("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "sslsni")
) | {"sslcompression", "client_encoding", "fallback_application_name", "load_balance_hosts", "uselibpqcompat"}
"""Parameters without an effect here."""
_DROPPED: Final = {
    "channel_binding": "asyncpg has none; TLS with sslmode=verify-full proves the server instead",
    "gssencmode": "asyncpg has no GSS encryption",
    "connection_limit": "a process has ten connections",
    "pool_timeout": "an operation waits 10 s",
    "statement_timeout": "a statement may take 10 s",
    "schema": "tables are in the first schema of the role's search_path",
}
_REFUSED: Final = {
    "search_path": "set it on the role: ALTER ROLE … SET search_path = …",
    "replication": "the store needs an ordinary session",
    "require_auth": "asyncpg cannot guarantee it",
}


class PostgresAddress(NamedTuple):
    """See the module.

    Attributes:
        urls: for asyncpg, one per host; without a host, one that leaves the choice to asyncpg.
        shown: for messages.
        user: the database user, if the address names one.
        session_attrs: the kind of server that is acceptable.
        pooled: whether the address says that a pooler is in front of the server.
        system_roots: whether to trust the operating system's certificates.
        notes: the dropped parameters, in words.
    """

    urls: tuple[str, ...]
    shown: str
    user: str
    session_attrs: str
    connect_s: float
    settings: dict[str, str]
    pooled: bool
    system_roots: bool
    notes: tuple[str, ...]


def parse_postgres(url: str) -> PostgresAddress:
    """Read a store URL. Raises ConfigError, with every problem."""
    try:
        parts = parse_engine_url(url)
    except BadEngineUrl as fault:
        raise ConfigError([f"NARTHEX_STORE_URL is not a valid store URL: {fault}"]) from None
    options = dict(parts.options)
    problems = [
        f"NARTHEX_STORE_URL: {name} cannot be used; {reason}."
        for name, reason in _REFUSED.items()
        if options.pop(name, "")
    ]
    problems += _values(options)
    hosts = _hosts(parts, options, problems)
    if problems:
        raise ConfigError(problems)
    roots = options.get("sslrootcert") == "system"
    if roots:
        del options["sslrootcert"]
    if options.pop("requiressl", "") == "1":
        options.setdefault("sslmode", "require")
    given = {name: options.pop(name) for name in sorted(_DRIVER) if name in options}
    user = options.pop("user", parts.user or "")
    password = options.pop("password", parts.password)
    database = options.pop("dbname", "") or options.pop("database", "") or parts.path.removeprefix("/")
    attrs = options.pop("target_session_attrs", "read-write")
    connect_s = float(options.pop("connect_timeout", "0") or 0)
    settings = {"application_name": options.pop("application_name", "narthex")}
    if extra := options.pop("options", ""):
        settings["options"] = extra
    caches = [options.pop(name, "") for name in ("statement_cache_size", "prepared_statement_cache_size")]
    pooled = options.pop("pgbouncer", "").lower() in ("true", "1") or "0" in caches
    credentials = parts._replace(user=user or None, password=password).credentials
    query = f"?{urlencode(given, quote_via=quote)}" if given else ""
    tail = f"/{quote(database, safe='')}{query}"
    return PostgresAddress(
        urls=tuple(f"postgresql://{credentials}{host}{tail}" for host in hosts),
        shown=f"{', '.join(hosts) or 'localhost'}/{database}",
        user=user,
        session_attrs="read-write" if attrs == "primary" else attrs,
        connect_s=min(connect_s, CONNECT_S) if connect_s > 0 else CONNECT_S / max(1, len(hosts)),
        settings=settings,
        pooled=pooled,
        system_roots=roots,
        notes=tuple(_notes(options)),
    )


def _values(options: dict[str, str]) -> list[str]:
    problems: list[str] = []
    for name, known in (("sslmode", SSL_MODES), ("target_session_attrs", SESSION_ATTRS)):
        if name in options and options[name] not in known:
            why = "; the store writes" if name == "target_session_attrs" else ""
            problems.append(f"NARTHEX_STORE_URL: {name} must be one of {', '.join(known)}{why}.")
    if options.get("gssencmode") == "require":
        problems.append(
            "NARTHEX_STORE_URL: gssencmode=require cannot be used; asyncpg has no GSS encryption."
        )
    seconds = options.get("connect_timeout", "")
    if seconds and not (seconds.isascii() and seconds.isdigit()):
        problems.append("NARTHEX_STORE_URL: connect_timeout must be a whole number of seconds.")
    return problems


def _hosts(parts: EngineUrl, options: dict[str, str], problems: list[str]) -> list[str]:
    """Each host with its port in URL form; `host`, `hostaddr` and `port` may name them in the query."""
    names = options.pop("host", "")
    addresses = options.pop("hostaddr", "")
    ports = [port for port in options.pop("port", "").split(",") if port]
    if any(not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536) for port in ports):
        problems.append("NARTHEX_STORE_URL: port must be a number, or one for each host.")
        return []
    asked = [name for name in (names or addresses).split(",") if name]
    found = [Host(name, None) for name in asked] or [host for host in parts.hosts if host.name]
    if len(ports) > 1 and len(ports) != len(found):
        problems.append("NARTHEX_STORE_URL: port must be a number, or one for each host.")
        return []
    usual = int(ports[0]) if ports else PORT
    each = [int(port) for port in ports] if len(ports) > 1 else [usual] * len(found)
    return [Host(host.name, host.port or port).text for host, port in zip(found, each, strict=True)]


def _notes(options: dict[str, str]) -> list[str]:
    """Notes on dropped parameters, without their values, because a value may be a secret."""
    notes: list[str] = []
    for name, value in sorted(options.items()):
        if name in _HARMLESS or (name in ("channel_binding", "gssencmode") and value != "require"):
            continue
        if name == "schema" and value == "public":
            continue
        notes.append(f"{name} is dropped: {_DROPPED.get(name, 'narthex does not know it')}")
    return notes
