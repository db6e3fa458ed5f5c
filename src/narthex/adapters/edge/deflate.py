"""Negotiates permessage-deflate (RFC 7692), and inflates messages within their bound.

Not here: deflating (`narthex.protocol.framing`). Rules: no context takeover in either direction, so that a socket keeps
no window (13 to 50 kB measured) and one compressed frame serves all subscribers; a message's output is bounded
before it is produced; an offer that cannot be met exactly is declined, and the client gets plain frames.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Final, NamedTuple

from websockets.exceptions import InvalidHeader
from websockets.headers import parse_extension
from websockets.typing import ExtensionParameter

_TAIL: Final = b"\x00\x00\xff\xff"  # RFC 7692 section 7.2.2
_STEP: Final = 256 * 1024
FULL_WINDOW: Final = 15
_CLIENT_WINDOWS: Final = {str(bits) for bits in range(8, 16)}
_SERVER_WINDOWS: Final = {
    str(bits) for bits in range(9, 16)
}  # zlib cannot deflate raw with 8 (its issue 171)


class Agreement(NamedTuple):
    """The negotiated parameters.

    Attributes:
        response: value of the answer's `Sec-WebSocket-Extensions`.
        window: bits of the window that outgoing messages may use, 9 to 15. Prepared frames are deflated with
            15; a client that asked for less gets plain frames, which the extension permits (section 6).
    """

    response: str
    window: int


class TooLarge(Exception):
    """The message inflates past its bound: close code 1009."""


def negotiate(offers: str) -> Agreement | None:
    """Answer the offers of one handshake (section 7.1); None when none of them can be met."""
    try:
        parsed = parse_extension(offers)
    except InvalidHeader:
        return None  # RFC 6455 allows to ignore malformed offers: no need to refuse
    for name, parameters in parsed:
        if name == "permessage-deflate":
            agreement = _meet(parameters)
            if agreement is not None:
                return agreement
    return None


def _meet(parameters: Sequence[ExtensionParameter]) -> Agreement | None:
    given = dict(parameters)
    if len(given) != len(parameters):
        return None
    window = given.pop("server_max_window_bits", "")
    client_window = given.pop("client_max_window_bits", None)
    if window is None or (window and window not in _SERVER_WINDOWS):
        return None
    if client_window is not None and client_window not in _CLIENT_WINDOWS:
        return None
    for flag in ("server_no_context_takeover", "client_no_context_takeover"):
        if given.pop(flag, None) is not None:
            return None  # these parameters take no value
    if given:
        return None
    response = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    if window:
        response += f"; server_max_window_bits={window}"
    return Agreement(response, int(window or FULL_WINDOW))


def inflate(payload: bytes, limit: int) -> bytes:
    """Inflate one whole message to at most `limit` bytes.

    Raises:
        TooLarge: the message would be longer.
        zlib.error: the payload is not deflate.
    """
    machine = zlib.decompressobj(wbits=-15)
    data = machine.decompress(payload + _TAIL, min(limit + 1, _STEP))
    if len(data) < _STEP:
        if len(data) > limit:
            raise TooLarge
        return data
    whole = bytearray(data)  # zlib doubles its own output buffer: steps keep a bomb's peak at the bound
    while data and len(whole) <= limit:
        data = machine.decompress(machine.unconsumed_tail, _STEP)
        whole += data
    if len(whole) > limit:
        raise TooLarge
    return bytes(whole)
