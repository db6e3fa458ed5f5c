"""Parses and renders URLs of engines (broker, store), in one place.

Not here: the meaning of a scheme's options (the adapters). Rules: an error never quotes any part of an
unreadable URL, because any part of it may be the password; `shown` has neither user, password nor options (drivers
take passwords there); user name and password are percent-decoded here, and never again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

ENCODE: Final = (
    "Percent-encode these characters in a user name or password: "
    "/ as %2F, ? as %3F, # as %23, % as %25, @ as %40, : as %3A, [ as %5B, ] as %5D, a comma as %2C, a space as %20."
)
_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")
_HOST: Final = re.compile(r"\[[0-9A-Fa-f:.]+(%25[\w.-]+)?\]|[A-Za-z0-9_.-]*|(%2[Ff][\w.%-]*)")
_OPTION: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


class BadEngineUrl(ValueError):
    """A URL that cannot be read; the message says why, in words of ours only."""


class Host(NamedTuple):
    """One server; an IPv6 address without brackets, a path for a socket; `port` None: the engine's usual one."""

    name: str
    port: int | None

    @property
    def text(self) -> str:
        """As a URL has it."""
        name = quote(self.name, safe="") if self.name.startswith("/") else self.name
        name = f"[{name}]" if ":" in name else name
        return name if self.port is None else f"{name}:{self.port}"


class EngineUrl(NamedTuple):
    """An engine's URL, taken apart; None where user or password are not given."""

    scheme: str
    user: str | None
    password: str | None
    hosts: tuple[Host, ...]
    path: str
    options: Mapping[str, str]

    @property
    def shown(self) -> str:
        """For people: without user, password and options."""
        return f"{self.scheme}://{','.join(host.text for host in self.hosts)}{quote(self.path)}"

    def servers(self, port: int) -> str:
        """For messages: `host:port`, separated by commas."""
        return ", ".join(Host(host.name, host.port or port).text for host in self.hosts)

    @property
    def credentials(self) -> str:
        """As a driver's URL has them, with the `@`; empty without."""
        if self.user is None and self.password is None:
            return ""
        password = "" if self.password is None else ":" + quote(self.password, safe="")
        return f"{quote(self.user or '', safe='')}{password}@"


def parse_engine_url(text: str) -> EngineUrl:
    """Take a URL apart: `scheme://[user[:password]@]host[:port][,host…][/path][?name=value&…]`.

    Raises:
        BadEngineUrl: it cannot be read, or could be read in two ways.
    """
    if any(not character.isprintable() or character == " " for character in text):
        raise BadEngineUrl(f"it contains a space or a control character. {ENCODE}")
    scheme, found, rest = text.partition("://")
    if not found or not _SCHEME.fullmatch(scheme):
        raise BadEngineUrl("it does not begin with scheme://.")
    if _BAD_ESCAPE.search(rest):
        raise BadEngineUrl(f"a % in it is not followed by two hexadecimal digits. {ENCODE}")
    if "#" in rest:
        raise BadEngineUrl(f"it contains a #. {ENCODE}")
    rest, asked, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    # Else `u:1?a=2@host` would be the host `u`, and a part of the password its port.
    if "@" in path or "@" in query:
        raise BadEngineUrl(f"an @ stands after a / or a ?. {ENCODE}")
    credentials, at, hosts = authority.rpartition("@")
    user, colon, password = credentials.partition(":")
    return EngineUrl(
        scheme,
        unquote(user) if at and (user or not colon) else None,
        unquote(password) if colon else None,
        _hosts(hosts),
        unquote(slash + path),
        _options(query) if asked else {},
    )


def parse_engine_urls(text: str) -> tuple[EngineUrl, ...]:
    """Take apart one URL, or the several that a NATS cluster is often given as: `nats://a:4222,nats://b:4222`.

    The servers of a cluster may stand in one URL, with credentials before each, or as several URLs. The options stand
    behind the last.

    Raises:
        BadEngineUrl: one of them cannot be read.
    """
    return tuple(parse_engine_url(part) for part in _apart(text))


def secrets_of(text: str) -> list[str]:
    """The parts of an engine's URL that must never be shown: the password, decoded and as written, and of an
    unreadable URL everything after the scheme.
    """
    found: set[str] = set()
    try:
        for part in _apart(text):
            url = parse_engine_url(part)
            raw = part.partition("://")[2].partition("/")[0].rpartition("@")[0].partition(":")[2]
            found |= {url.password or "", raw}
            found |= {value for name, value in url.options.items() if "password" in name.lower()}
    except BadEngineUrl:
        rest = text.partition("://")[2] or text
        return [part for part in {text, rest, *re.split(r"[/?#@:]", rest)} if len(part) >= 4]
    return sorted(part for part in found if part)


def shown(text: str) -> str:
    """A URL for people, also one that cannot be read."""
    try:
        return ",".join(url.shown for url in parse_engine_urls(text))
    except BadEngineUrl:
        return "set, but not readable as a URL"


def _apart(text: str) -> list[str]:
    """The URLs of a list; one with credentials before each host becomes one URL a host."""
    base, asked, query = text.partition("?")
    scheme = base.partition("://")[0]
    found: list[str] = []
    for url in re.split(r",(?=[a-z][a-z0-9+.-]*://)", base):
        pieces = re.split(r",(?=[^,@]*@)", url)
        each = len(pieces) > 1 and all("@" in piece for piece in pieces)  # else the comma is in the password
        found += [piece if "://" in piece else f"{scheme}://{piece}" for piece in pieces] if each else [url]
    found[-1] += asked + query
    return found


def _hosts(text: str) -> tuple[Host, ...]:
    found: list[Host] = []
    for part in text.split(","):
        name, colon, port = part.rpartition(":") if not part.endswith("]") else (part, "", "")
        if not colon and not part.endswith("]"):
            name, port = part, ""
        if not _HOST.fullmatch(name) or (
            colon and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536)
        ):
            raise BadEngineUrl(f"a host or port in it cannot be read. {ENCODE}")
        plain = unquote(name.removeprefix("[").removesuffix("]"))
        found.append(Host(plain, int(port) if colon else None))
    return tuple(found)


def _options(query: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        if not pair:
            continue
        if not equals or not _OPTION.fullmatch(name):
            raise BadEngineUrl(f"the part after the ? is not name=value pairs. {ENCODE}")
        found[name] = unquote(value)
    return found
