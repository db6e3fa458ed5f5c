"""Checks request heads by one pure function, for the first request of a connection and for later ones.

Not here: credentials, which the upgrade handler checks. Rules: the order of checks is fixed, so that a refusal names
the outermost fault; a refusal never repeats text from the client; `Host` decides whether a request is answered, never
which path it is for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container
from functools import lru_cache
from typing import Final

import msgspec

from narthex.adapters.edge.head import Fields, authority, malformed
from narthex.domain import endpoints
from narthex.domain.origins import served_to_probes
from narthex.domain.refusals import Refusal
from narthex.ports.edge import RequestHead

AllowedHost = Callable[[str], bool]
"""Returns whether this gateway serves a host name, in lower case without its port (an IPv6 literal in brackets)."""

# Where RFC 9110 allows a list, several lines are one; where it does not, two lines are an attack or a bug,
# because different readers would use different ones.
_SINGLE: Final = frozenset(
    {"host", "origin", "authorization", "content-length", "sec-websocket-key", "sec-websocket-version"}
)
_LISTS: Final = frozenset(
    {"connection", "upgrade", "transfer-encoding", "sec-websocket-protocol", "sec-websocket-extensions"}
)
_DECISIVE: Final = _SINGLE | _LISTS
# No `/`, `?`, `#`, `@`: frameworks copy Host into URLs, and it must not become a path there
# (Starlette 2026-48710).
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_KEY: Final = re.compile(r"[A-Za-z0-9+/]{22}==")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")  # only percent-encoding can carry them this far
ANY_HOST_PATHS: Final = frozenset({"/livez", "/readyz"})
"""Platforms probe by address; the answers say nothing that a page of another site could use."""
_STRIPPED: Final = "A proxy in between may strip `Upgrade` and `Connection`: they are hop-by-hop."


class HeadRules(msgspec.Struct, frozen=True, kw_only=True):
    """The hosts and paths that this gateway answers.

    Attributes:
        allowed_host: whether a `Host` is ours.
        websocket_paths: exact, percent-decoded paths that upgrade.
        mounted: whether a path is one of the embedding program's own routes that take a WebSocket; None: it has none.
        any_host_paths: paths that are answered with any `Host`, for platforms' probes.
    """

    allowed_host: AllowedHost
    websocket_paths: Container[str] = frozenset(endpoints.WEBSOCKETS)
    any_host_paths: frozenset[str] = ANY_HOST_PATHS
    mounted: Callable[[str], bool] | None = None


class PlainRequest(msgspec.Struct, frozen=True):
    """Not an upgrade: an HTTP request for the web application."""


class MountedUpgrade(msgspec.Struct, frozen=True):
    """A well-formed WebSocket upgrade to a route of the embedding program's own."""


class Upgrade(msgspec.Struct, frozen=True):
    """A well-formed WebSocket upgrade to a known path.

    Attributes:
        key: `Sec-WebSocket-Key`.
        protocols: the offered subprotocols, in the client's order.
        extensions: the offered extensions, as one raw list.
    """

    key: str
    protocols: tuple[str, ...]
    extensions: str


PLAIN: Final = PlainRequest()
MOUNTED: Final = MountedUpgrade()


def classify_head(
    fields: Fields, head: RequestHead, rules: HeadRules
) -> PlainRequest | Upgrade | MountedUpgrade | Refusal:
    """Decide whether a request goes to the web application, the upgrade handler or a mounted route, or is refused.

    Args:
        fields: the raw head.
        head: the same as `request_head` made it.
        rules: the hosts and paths that this gateway answers.
    """
    if head.http_version not in ("1.1", "1.0"):
        return malformed("This server supports only HTTP/1.1 and HTTP/1.0.")
    found = _decisive_headers(head)
    if isinstance(found, Refusal):
        return found
    problem = _target_problem(fields, head, found.get("host")) or _host_problem(
        head, found.get("host"), rules
    )
    if problem is not None:
        return problem
    if "upgrade" not in found:
        if head.path in rules.websocket_paths:
            return _no_upgrade(head)
        return PLAIN
    return _classify_upgrade(head, found, rules)


def head_problem(
    head: RequestHead, rules: HeadRules, max_bytes: int, max_headers: int, *, upgrade: bool = False
) -> Refusal | None:
    """The refusal of a head that another server has parsed, by the rules that do not depend on its raw bytes."""
    if len(head.headers) > max_headers:
        return Refusal(code="head_too_large", detail=f"There are more than {max_headers} headers.")
    size = (
        len(head.path) + len(head.query) + sum([len(name) + len(value) + 4 for name, value in head.headers])
    )
    if size > max_bytes:
        return Refusal(code="head_too_large")
    if _CONTROL.search(head.path) is not None:
        return malformed("The request target holds control characters.")
    found = _decisive_headers(head)
    if isinstance(found, Refusal):
        return found
    problem = _host_problem(head, found.get("host"), rules)
    return problem or (_body_problem(found) if upgrade else None)


def _decisive_headers(head: RequestHead) -> dict[str, str] | Refusal:
    """The headers that the rules look at, each with one value."""
    found: dict[str, str] = {}
    for name, value in head.headers:
        if name not in _DECISIVE:
            continue
        if name not in found:
            found[name] = value
        elif name in _SINGLE:
            return malformed(f"The request has two {name} headers.")
        else:
            found[name] = f"{found[name]}, {value}"
    return found


def _target_problem(fields: Fields, head: RequestHead, host: str | None) -> Refusal | None:
    if not head.path or b"#" in fields.target or fields.method == b"CONNECT":
        return malformed("The request target must be a path.")
    if b"%" in fields.target and _CONTROL.search(head.path) is not None:
        return malformed("The request target contains control characters.")
    if fields.target[0] != 0x2F and authority(fields.target) != (host or "").lower():
        return malformed("The request target names another host than the Host header.")
    return None


def _host_problem(head: RequestHead, host: str | None, rules: HeadRules) -> Refusal | None:
    anyone = head.path in rules.any_host_paths
    if host is None:
        if head.http_version == "1.1" or not anyone:
            return malformed("The Host header is missing.")
        return None
    name = _host_name(host)
    if name is None:
        return malformed("The Host header is not a host name.")
    if anyone or rules.allowed_host(name):
        return None
    if not served_to_probes(host, head.peer[0], (header for header, _ in head.headers)):
        return malformed("The Host header does not name this gateway; NARTHEX_ALLOWED_HOSTS lists its names.")
    return None


@lru_cache(maxsize=256)  # clients use the same few names; one that varies them only costs itself
def _host_name(host: str) -> str | None:
    match = _HOST.fullmatch(host)
    return None if match is None else match[1].lower()


def _no_upgrade(head: RequestHead) -> Refusal:
    if head.http_version == "1.0":
        return Refusal(
            code="upgrade_required",
            detail="The request arrived as HTTP/1.0 without `Upgrade`. A proxy must speak HTTP/1.1 to its upstream.",
        )
    return Refusal(code="upgrade_required", detail=f"No `Upgrade` header arrived. {_STRIPPED}")


def _classify_upgrade(
    head: RequestHead, found: dict[str, str], rules: HeadRules
) -> PlainRequest | Upgrade | MountedUpgrade | Refusal:
    upgrades = _lists(found.get("connection", ""), "upgrade")
    if not _lists(found["upgrade"], "websocket"):
        if not upgrades and head.path not in rules.websocket_paths:
            return PLAIN  # a stray hop-by-hop header is no upgrade request
        return malformed("This server supports only `Upgrade: websocket`.")
    ours = head.path in rules.websocket_paths  # also where the program mounts something at `/`
    if not ours and (rules.mounted is None or not rules.mounted(head.path)):
        return Refusal(code="no_route", detail="This path has no WebSocket.")
    problem = _method_problem(head, upgrades=upgrades) or _websocket_problem(found)
    if problem is not None:
        return problem
    if not ours:
        return MOUNTED
    offered = found.get("sec-websocket-protocol", "")
    return Upgrade(
        found["sec-websocket-key"],
        tuple(name for name in (part.strip(" \t") for part in offered.split(",")) if name) if offered else (),
        found.get("sec-websocket-extensions", ""),
    )


def _method_problem(head: RequestHead, *, upgrades: bool) -> Refusal | None:
    if head.http_version == "1.0":
        detail = (
            "An upgrade needs HTTP/1.1; this came as HTTP/1.0. A proxy must speak HTTP/1.1 to its upstream."
        )
    elif head.method != "GET":
        detail = "An upgrade must be a GET request."
    elif not upgrades:
        detail = f"`Connection: Upgrade` is missing. {_STRIPPED}"
    else:
        return None
    return Refusal(code="upgrade_required", detail=detail)


def _websocket_problem(found: dict[str, str]) -> Refusal | None:
    if found.get("sec-websocket-version") != "13":
        return Refusal(code="upgrade_required", detail="`Sec-WebSocket-Version` must be 13.")
    if _KEY.fullmatch(found.get("sec-websocket-key", "")) is None:
        return malformed("`Sec-WebSocket-Key` must be 16 bytes in base64.")
    if problem := _body_problem(found):
        return problem
    for name in ("sec-websocket-protocol", "sec-websocket-extensions"):
        value = found.get(name)
        if value is None:
            continue
        if not value.isascii() or not value.replace("\t", " ").isprintable():
            return malformed(f"The header {name} contains characters that are not printable ASCII.")
    return None


def _body_problem(found: dict[str, str]) -> Refusal | None:
    """A body behind an upgrade would be frames to one server and a request to the next."""
    if "transfer-encoding" in found or found.get("content-length", "0").strip("0"):
        return malformed("An upgrade must not have a body.")
    return None


def _lists(value: str, word: str) -> bool:
    """Whether a list header holds `word`, in any case."""
    value = value.lower()
    return value == word or word in [part.strip(" \t") for part in value.split(",")]
