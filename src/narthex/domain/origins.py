"""Which pages may connect (`Origin`) and under which names we are reached (`Host`).

Not here: who the client is (`addresses`), what a missing `Origin` means for the cookie (`admission`). Rules:
same-origin pages may always connect, which is safe because `Host` is checked too (an attacker's name that
resolves to us is refused before its page can be called same-origin); there is no wildcard for all origins.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_NAME: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?\.?")


class Origin(NamedTuple):
    """An origin's three parts (RFC 6454 section 4); `scheme` may be one of an app (`tauri`, `capacitor`)."""

    scheme: str
    host: str
    port: int


class OriginPolicy(msgspec.Struct, frozen=True):
    """Which origins may connect, beside our own.

    Attributes:
        exact: listed ones.
        suffixes: of `https://*.example.com`: the scheme, `.example.com`, the port.
    """

    exact: frozenset[Origin] = frozenset()
    suffixes: tuple[Origin, ...] = ()

    def allows(self, origin: str, *, host: str, scheme: str) -> bool:
        """Whether a page of `origin` may connect.

        Args:
            origin: the header's value.
            host: the request's `Host`.
            scheme: `https` or `http`, as the client sees it. An https page of the same host is same-origin
                even when the request looks like http: then a proxy that is not listed as trusted ends TLS.
        """
        found = parse_origin(origin)
        if found is None:
            return False
        if found in self.exact or any(_below(found, suffix) for suffix in self.suffixes):
            return True
        if found.scheme not in ("http", "https") or (found.scheme == "http" and scheme == "https"):
            return False
        own = parse_host(host)
        if own is None or own[0] != found.host:
            return False
        return (own[1] or _DEFAULT_PORTS[found.scheme]) == found.port


class HostPolicy(msgspec.Struct, frozen=True):
    """Under which names we may be reached; the default is loopback names only.

    Attributes:
        exact: listed names, lower case.
        suffixes: `.example.com` of `*.example.com`.
        loopback: localhost, `*.localhost`, 127.0.0.0/8 and ::1 are served.
    """

    exact: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    loopback: bool = True

    def allows(self, host: str) -> bool:
        """Whether a request with this `Host` header is for us; its port is not looked at."""
        found = parse_host(host)
        if found is None:
            return False
        name = found[0]
        return name in self.exact or name.endswith(self.suffixes) or (self.loopback and _is_loopback(name))


@lru_cache(maxsize=1024)
def parse_origin(text: str) -> Origin | None:
    """`scheme://host[:port]` in its parts; None for `null` and everything else."""
    scheme, found, rest = text.lower().partition("://")
    if not found or not re.fullmatch(r"[a-z][a-z0-9+.-]{0,31}", scheme):
        return None
    host = parse_host(rest)
    if host is None:
        return None
    return Origin(scheme, host[0], host[1] or _DEFAULT_PORTS.get(scheme, 0))


@lru_cache(maxsize=1024)
def parse_host(text: str) -> tuple[str, int] | None:
    """A `Host` header (RFC 9110 section 7.2) as lower-case name without a final dot, and port (0: none given)."""
    if len(text) > 260:
        return None
    raw = text.lower()
    if raw.startswith("["):
        literal, closed, rest = raw[1:].partition("]")
        if not closed:
            return None
        try:
            name = str(ipaddress.IPv6Address(literal))
        except ValueError:
            return None
    else:
        name, colon, port_text = raw.partition(":")
        rest = colon + port_text
        if _NAME.fullmatch(name) is None:
            return None
        name = name.removesuffix(".")
    if not rest:
        return name, 0
    port = rest[1:]
    if (
        rest[0] != ":"
        or not (port.isascii() and port.isdigit())
        or len(port) > 5
        or not 0 < int(port) < 65_536
    ):
        return None
    return name, int(port)


def parse_allowed_origins(words: Sequence[str]) -> OriginPolicy | list[str]:
    """`NARTHEX_ALLOWED_ORIGINS`: `https://app.example.com`, `https://*.example.com`; or every problem."""
    exact: set[Origin] = set()
    suffixes: list[Origin] = []
    problems: list[str] = []
    for word in words:
        wild = "://*." in word
        found = parse_origin(word.removesuffix("/").replace("://*.", "://", 1))
        if found is None or (wild and "." not in found.host):
            problems.append(
                f"NARTHEX_ALLOWED_ORIGINS holds {word[:100]!r}, which is no origin. Write for example "
                "https://app.example.com, or https://*.example.com."
            )
        elif wild:
            suffixes.append(found._replace(host="." + found.host))
        else:
            exact.add(found)
    return problems or OriginPolicy(frozenset(exact), tuple(suffixes))


def parse_allowed_hosts(words: Sequence[str], *, required: bool = False) -> HostPolicy | list[str]:
    """`NARTHEX_ALLOWED_HOSTS`: names and `*.example.com`; or every problem.

    Args:
        words: the setting's items; none: loopback names only. Loopback names stay served beside listed ones,
            since health's own handshake comes that way, except where `required`.
        required: in production: an empty list is a problem.
    """
    if not words and required:
        return [
            "NARTHEX_ALLOWED_HOSTS is not set, and ENVIRONMENT is production. Set it to the gateway's names."
        ]
    exact: set[str] = set()
    suffixes: list[str] = []
    problems: list[str] = []
    for word in words:
        wild = word.startswith("*.")
        found = parse_host(word[2:] if wild else word)
        if found is None or found[1] or (wild and "." not in found[0]):
            problems.append(
                f"NARTHEX_ALLOWED_HOSTS holds {word[:100]!r}, which is no host name. Write for example "
                "chat.example.com, or *.example.com, without a port."
            )
        elif wild:
            suffixes.append("." + found[0])
        else:
            exact.add(found[0])
    return problems or HostPolicy(frozenset(exact), tuple(suffixes), loopback=True)


def _below(origin: Origin, suffix: Origin) -> bool:
    return origin.scheme == suffix.scheme and origin.port == suffix.port and origin.host.endswith(suffix.host)


@lru_cache(maxsize=1024)
def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
