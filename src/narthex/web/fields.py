"""Reads parts of a request: its body within a bound, before it is parsed; fields; credentials in `Authorization`.

Not here: the time limit of a body (`EdgeLimits.body_s`). A client that leaves within its body raises
`ClientDisconnect`, which `problems` does not report as a bug.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from narthex.domain.ids import ID_RULE, valid_id
from narthex.domain.moments import MOMENT_RULE, valid_moment
from narthex.errors import ClientError

MAX_BODY_BYTES: Final = 16 * 1024  # a token of 8 KB and some fields


async def bounded_body(request: Request, max_bytes: int) -> bytes | None:
    """The whole body, or None as soon as it is larger than `max_bytes`."""
    found = bytearray()
    async for chunk in request.stream():
        found += chunk
        if len(found) > max_bytes:
            return None
    return bytes(found)


async def read_fields(request: Request) -> dict[str, str] | None:
    """The string members of a JSON object or form; None when it is neither, or too large. Empty body: {}."""
    body = await bounded_body(request, MAX_BODY_BYTES)
    if body is None:
        return None
    if not body:
        return {}
    try:
        if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20))
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    return {name: value for name, value in document.items() if isinstance(value, str)}


def bearer(request: Request) -> str:
    """The token of `Authorization: Bearer`, empty when there is none (RFC 6750 section 2.1)."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def basic_password(request: Request) -> str:
    """The password of `Authorization: Basic`, empty when there is none (RFC 7617)."""
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""


def moment_and_id(request: Request, moment: str, name: str, *, status: int = 422) -> tuple[float | None, str]:
    """The place of a page in the query: a moment, None where it is not given, and an id, empty where it is not.

    Raises:
        ClientError: `bad_params` (`status`): also for `nan`, infinities, milliseconds and text that no store takes.
    """
    query = request.query_params
    try:
        at = float(query[moment]) if query.get(moment) else None
        if at is not None and not valid_moment(at):
            raise ValueError(moment)
    except ValueError as fault:
        raise ClientError(
            "bad_params", f"`{moment}` is no moment.", f"Give {MOMENT_RULE}.", number=status
        ) from fault
    found = query.get(name, "")
    if found and not valid_id(found):
        raise ClientError("bad_params", f"`{name}` is no id.", f"Give {ID_RULE}.", number=status)
    return at, found


def whole_number(request: Request, name: str, default: int, *, most: int) -> int:
    """A number of the query from 1 to `most`; one beyond is the nearest. Raises ClientError `bad_params` (422)."""
    try:
        return max(1, min(most, int(request.query_params.get(name, default))))
    except ValueError as fault:
        raise ClientError(
            "bad_params", f"`{name}` is no whole number.", f"Give 1 to {most}.", number=422
        ) from fault


def local_path(path: str) -> str:
    """`path` if it stays on this site, else empty: an open redirect would lend our name to an attacker."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else ""
