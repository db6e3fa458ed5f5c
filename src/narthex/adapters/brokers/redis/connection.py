"""Connects to Redis or Valkey: parses its address, reads the server's settings, and runs scripts by their digest.

Rules: a command in flight is never cancelled, because its reply would be taken for the next command's: a caller that
gives up leaves it running; the library does not retry, the broker does.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MasterDownError, NoScriptError, ReadOnlyError, RedisError, ResponseError

from narthex.adapters.brokers.redis.scripts import NEW_RUN, REPLICA
from narthex.adapters.certificates import certificate_end
from narthex.domain.engine_urls import BadEngineUrl, parse_engine_url
from narthex.errors import ConfigError

SOCKET_S: Final = 5.0
CONNECTIONS: Final = 16  # appending takes one at a time; the rest are for reads, presence and control

OPTIONS: Final = frozenset(
    ("protocol", "db", "username", "password", "client_name", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path")
) | {"ssl_certfile", "ssl_keyfile", "ssl_password", "ssl_check_hostname"}
"""Options of the library's connections that a URL may set."""
FAULTS: Final = (RedisError, OSError, asyncio.TimeoutError)
"""The library's exceptions for a failing server."""


class NewRun(Exception):
    """The server is not the run that this node attached to."""


class Replica(ConnectionError):
    """The server is a replica: the node must not use it, and must drop its connections."""


class RedisAddress(NamedTuple):
    """The server's address, from `redis[s]://[user:password@]host:port[,host:port…]/db[?prefix=narthex]`. Of several
    servers, the broker uses the primary.
    """

    urls: tuple[str, ...]
    shown: str
    prefix: str


class ServerSettings(NamedTuple):
    """The server's settings. `fsync` is `always`, `everysec`, `no`, or empty when it has no append-only file."""

    fsync: str
    replica: bool


def parse_address(url: str) -> RedisAddress:
    """Read a broker URL. Raises ConfigError."""
    try:
        parts = parse_engine_url(url)
    except BadEngineUrl as fault:
        raise ConfigError([f"NARTHEX_BROKER_URL is not a valid broker URL: {fault}"]) from None
    options = dict(parts.options)
    prefix = options.pop("prefix", "narthex")
    if parts.scheme not in ("redis", "rediss", "valkey", "valkeys") or not all(
        host.name for host in parts.hosts
    ):
        raise ConfigError(["NARTHEX_BROKER_URL must be redis://host:port/0 (rediss:// for TLS)."])
    unknown = sorted(set(options) - OPTIONS)
    if unknown:
        known = ", ".join(sorted(OPTIONS))
        raise ConfigError(
            [
                f"NARTHEX_BROKER_URL has an unknown option {name!r}. Known options are prefix, {known}."
                for name in unknown
            ]
        )
    scheme = parts.scheme.replace("valkey", "redis")
    query = f"?{urlencode(options)}" if options else ""
    urls = tuple(
        f"{scheme}://{parts.credentials}{host.text}{quote(parts.path)}{query}" for host in parts.hosts
    )
    return RedisAddress(urls, parts.servers(6379), prefix)


def connect(address: RedisAddress, turn: int = 0) -> Redis:
    """A client of the server number `turn`, modulo their number; sends nothing yet."""
    # Calls wait for a connection in turn. The library's default pool raises instead: a crowd of readers then came back
    # after a pause each, 16 at a time, which took 250 clients that returned at once 5 s.
    pool: BlockingConnectionPool = BlockingConnectionPool.from_url(
        address.urls[turn % len(address.urls)],
        timeout=SOCKET_S,
        socket_timeout=SOCKET_S,
        socket_connect_timeout=SOCKET_S,
        socket_keepalive=True,
        health_check_interval=0,
        max_connections=CONNECTIONS,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


async def certificate_end_of(client: Redis) -> float:
    """The end of the server's TLS certificate, on a fresh connection; 0.0 without TLS. Raises RedisError, OSError."""
    pool: Any = client.connection_pool  # the library leaves this method untyped
    connection = pool.make_connection()
    try:
        await connection.connect()
        return certificate_end(getattr(connection, "_writer", None))
    finally:
        await connection.disconnect()


async def read_settings(client: Redis, address: RedisAddress) -> ServerSettings:
    """The settings that decide durability.

    Raises:
        ConfigError: the server may evict data.
        RedisError, OSError: the server does not answer.
    """
    info: dict[str, Any] = await client.info("everything")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and int(info.get("maxmemory", 0)):
        raise ConfigError(
            [f"Redis at {address.shown} drops data when memory is short: set maxmemory-policy to noeviction."]
        )
    fsync = "no"
    if int(info.get("aof_enabled", 0)):
        fsync = "everysec"  # the most that managed services that forbid CONFIG do
        try:
            found = await client.config_get("appendfsync")
            fsync = str(found.get("appendfsync") or fsync)
        except ResponseError:
            pass
    else:
        fsync = ""
    return ServerSettings(fsync, info.get("role") != "master")


class Script:
    """A Lua script, sent once and then called by its digest."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._digest = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, client: Redis, keys: list[str], arguments: list[Any]) -> Any:
        """Run the script. Raises NewRun, Replica, or the library's exceptions."""
        try:
            try:
                return await _execute(client, "EVALSHA", self._digest, len(keys), *keys, *arguments)
            except NoScriptError:
                return await _execute(client, "EVAL", self._source, len(keys), *keys, *arguments)
        except ResponseError as error:
            if str(error).startswith(NEW_RUN):
                raise NewRun from error
            if str(error).startswith(REPLICA) or isinstance(error, ReadOnlyError | MasterDownError):
                raise Replica("the server is a replica") from error
            raise


async def _execute(client: Redis, *command: Any) -> Any:
    """Run one command; the library leaves this method untyped."""
    execute: Any = client.execute_command
    return await execute(*command)
