"""Decides which pages may connect (`Origin`) and under which names clients may reach this server (`Host`).

Not here: who the client is (`addresses`), what a missing `Origin` means for the cookie (`admission`). Rules:
same-origin pages may always connect, which is safe because `Host` is checked too (an attacker's name that
resolves to us is refused before its page can be called same-origin); there is no wildcard for all origins.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from narthex.domain.addresses import canonical
from narthex.domain.environment import is_loopback

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_FORWARDING: Final = frozenset({"forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip"})
# Without a host that DNS knows, so not http(s) and no name with a letter or digit: such origins are taken apart.
_SHELL: Final = re.compile(r"null|(?!https?:|wss?:)[a-z][a-z0-9+.-]{0,31}://[._-]{0,8}")
TAG_MARK: Final = "---"
"""Between a revision tag and the service's host in Cloud Run's URLs."""
_TAG: Final = re.compile(r"[a-z](?:-?[a-z0-9])*")
# `service-projectnumber.region.run.app`, and `service-hash-regioncode.a.run.app`: hash and number are the project's.
_SERVICE_HOST: Final = re.compile(
    r"[a-z][a-z0-9-]*-(?:\d{6,}\.[a-z]+-[a-z]+\d+|[a-z0-9]{10}-[a-z]{2,3}\.a)\.run\.app"
)
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
        shells: origins without a host, as text: `null`, `file://`, `app://-`, which desktop and mobile shells send.
            Any page can have one of those, so that no cookie counts with them.
    """

    exact: frozenset[Origin] = frozenset()
    suffixes: tuple[Origin, ...] = ()
    shells: frozenset[str] = frozenset()

    def allows(self, origin: str, *, host: str, scheme: str) -> bool:
        """Whether a page of `origin` may connect.

        Args:
            origin: the header's value.
            host: the request's `Host`.
            scheme: `https` or `http`, as the client sees it. An https page of the same host is same-origin
                even when the request looks like http: then a proxy that is not listed as trusted ends TLS.
        """
        if self.shells and origin.lower() in self.shells:
            return True
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


def claimed_origin(
    origin: str | None, fetch_site: Sequence[str], *, scheme: str, host: str, upgrade: bool
) -> str | None:
    """The origin that a request claims; None: it names no page.

    A browser sends no `Origin` with a same-origin GET, `EventSource` included, but says so in `Sec-Fetch-Site`, which
    no page can set. With an upgrade every browser sends `Origin`, so there nothing stands in for it.
    """
    if origin is None and not upgrade and list(fetch_site) == ["same-origin"]:
        return f"{scheme}://{host}"
    return origin


def origin_fault(policy: OriginPolicy, claimed: str | None, *, host: str, scheme: str, cookie: bool) -> str:
    """The one rule of origins (docs/design.md#origin), for every surface that takes a credential.

    Args:
        policy: which pages may connect.
        claimed: see `claimed_origin`.
        host: the `Host` header.
        scheme: `https` or `http`, as the client sees it.
        cookie: a cookie is the request's only credential: browsers send it for any page that asks them to.

    Returns:
        Why the request is `origin_not_allowed`, or empty.
    """
    if claimed is None:
        return "The cookie needs an Origin header; other clients must send a token." if cookie else ""
    if not policy.allows(claimed, host=host, scheme=scheme):
        return "Pages of this origin are not allowed to connect."
    if cookie and claimed.lower() in policy.shells:
        return "The cookie is not accepted with an origin that any page can have; send a token."
    return ""


class HostPolicy(msgspec.Struct, frozen=True):
    """Under which names we may be reached; the default is loopback names only.

    Attributes:
        exact: listed names, lower case.
        suffixes: `.example.com` of `*.example.com`.
        tagged: hosts of Cloud Run services, each with the URLs of its revision tags, `tag---` before the host.
        loopback: localhost, `*.localhost`, 127.0.0.0/8 and ::1 are served to every peer; where names are listed they
            are served to a loopback peer only (`served_to_probes`).
    """

    exact: frozenset[str] = frozenset()
    suffixes: tuple[str, ...] = ()
    tagged: frozenset[str] = frozenset()
    loopback: bool = True

    def allows(self, host: str) -> bool:
        """Whether a request with this `Host` header is for us; its port is not looked at."""
        found = parse_host(host)
        if found is None:
            return False
        name = found[0]
        return (
            name in self.exact
            or name.endswith(self.suffixes)
            or (bool(self.tagged) and self._is_tagged(name))
            or (self.loopback and _is_loopback(name))
        )

    def _is_tagged(self, name: str) -> bool:
        tag, mark, host = name.partition(TAG_MARK)
        return (
            bool(mark)
            and host in self.tagged
            and _TAG.fullmatch(tag) is not None
            and len(name.partition(".")[0]) < 64
        )


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
    shells: set[str] = set()
    problems: list[str] = []
    for word in words:
        if _SHELL.fullmatch(word.lower()) is not None:
            shells.add(word.lower())
            continue
        wild = "://*." in word
        found = parse_origin(word.removesuffix("/").replace("://*.", "://", 1))
        if found is None or (wild and "." not in found.host):
            problems.append(
                f"NARTHEX_ALLOWED_ORIGINS holds {word[:100]!r}, which is not an origin. Write for example "
                f"https://app.example.com, https://*.example.com, or app://-, file:// or null for a desktop shell."
            )
        elif wild:
            suffixes.append(found._replace(host="." + found.host))
        else:
            exact.add(found)
    return problems or OriginPolicy(frozenset(exact), tuple(suffixes), frozenset(shells))


def parse_allowed_hosts(
    words: Sequence[str], *, public_url: str = "", required: bool = False
) -> HostPolicy | list[str]:
    """`NARTHEX_ALLOWED_HOSTS`: names, `*.example.com`, `*---SERVICE-….run.app`; or every problem.

    Args:
        words: the setting's items; none: the host of `public_url` and loopback names. Beside listed names loopback
            names are served to probes of this machine only, among them health's own handshake.
        public_url: how clients reach this process; empty: unknown.
        required: in production: there must be a name, and loopback names are for probes only.
    """
    if not words:
        public = parse_origin(public_url.rstrip("/"))
        if public is not None:
            return HostPolicy(frozenset((public.host,)), loopback=not required)
        if required:
            return [
                (
                    "NARTHEX_ALLOWED_HOSTS is not set, and ENVIRONMENT is production. Set it to the host names that "
                    "clients use, or set NARTHEX_PUBLIC_URL."
                )
            ]
    exact: set[str] = set()
    suffixes: list[str] = []
    problems: list[str] = []
    tagged: set[str] = set()
    for word in words:
        if word.startswith("*" + TAG_MARK):
            service = word.lower().removeprefix("*" + TAG_MARK)
            if _SERVICE_HOST.fullmatch(service) and TAG_MARK not in service:
                exact.add(service)
                tagged.add(service)
            else:
                problems.append(
                    f"NARTHEX_ALLOWED_HOSTS holds {word[:100]!r}, which names no one service of Cloud Run. Write *--- "
                    "and the whole host of the service, for example *---chat-123456789012.europe-west1.run.app."
                )
            continue
        wild = word.startswith("*.")
        found = parse_host(word[2:] if wild else word)
        if wild and word.lower().endswith(".run.app"):
            problems.append(
                f"NARTHEX_ALLOWED_HOSTS holds {word[:100]!r}, which admits the hosts of all customers of Cloud Run. "
                "Write *--- and the host of your service, for example *---chat-123456789012.europe-west1.run.app."
            )
            continue
        if found is None or found[1] or (wild and "." not in found[0]):
            problems.append(
                f"NARTHEX_ALLOWED_HOSTS holds {word[:100]!r}, which is not a host name. Write for example "
                "chat.example.com, or *.example.com, without a port."
            )
        elif wild:
            suffixes.append("." + found[0])
        else:
            exact.add(found[0])
    return problems or HostPolicy(frozenset(exact), tuple(suffixes), frozenset(tagged), loopback=not words)


def served_to_probes(host: str, peer: str, header_names: Iterable[str]) -> bool:
    """Whether a request by a loopback name is a probe of this machine, whatever names are listed
    (docs/design.md#origin).

    Args:
        host: the `Host` header.
        peer: the socket's other end.
        header_names: lower case; with any forwarding header the client is behind a proxy of this machine.
    """
    found = parse_host(host)
    return found is not None and _is_loopback(found[0]) and from_this_machine(peer, header_names)


def from_this_machine(peer: str, header_names: Iterable[str]) -> bool:
    """Whether the socket's other end is loopback and no proxy forwarded the request. Arguments: `served_to_probes`."""
    return _is_loopback(canonical(peer) or "") and not is_forwarded(header_names)


def is_forwarded(header_names: Iterable[str]) -> bool:
    """Whether a header of a proxy is among them (lower case)."""
    return any(name in _FORWARDING or name.startswith("x-forwarded-") for name in header_names)


def _below(origin: Origin, suffix: Origin) -> bool:
    return origin.scheme == suffix.scheme and origin.port == suffix.port and origin.host.endswith(suffix.host)


@lru_cache(maxsize=1024)
def _is_loopback(name: str) -> bool:
    return name.endswith(".localhost") or is_loopback(name)
