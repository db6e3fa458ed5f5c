"""Makes the bytes of the client side: upgrade requests, masked frames, HTTP posts, HS256 tokens.

Rules: frames are masked with a key of zero, which saves the generator the masking; the server unmasks all the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import time
from collections.abc import Mapping
from typing import Any, Final

from narthex.protocol.client import PONG, encode_command
from narthex.protocol.framing import NO_MASK, TEXT, encode_close, encode_frame
from narthex.protocol.replies import PING

_UPGRADE: Final = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",  # RFC 6455 section 1.3; servers must not care
    "Sec-WebSocket-Version": "13",
}
CLOSE: Final = encode_close(1000, key=NO_MASK)
PING_FRAME: Final = encode_frame(TEXT, PING)
PONG_FRAME: Final = encode_frame(TEXT, PONG, NO_MASK)
"""A ping of the Centrifuge protocol in the server's frame, and its answer."""


def request(line: str, host: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """An HTTP request whose first line begins with `line`, on a connection that stays open."""
    lines = [f"{line} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def upgrade(path: str, host: str, headers: Mapping[str, str]) -> bytes:
    """An upgrade request."""
    return request(f"GET {path}", host, {**_UPGRADE, **headers})


def post(path: str, host: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """An HTTP POST of JSON."""
    described = {"Content-Type": "application/json", "Content-Length": str(len(body))}
    return request(f"POST {path}", host, {**described, **headers}, body)


def frame(payload: bytes) -> bytes:
    """A client's text frame."""
    return encode_frame(TEXT, payload, NO_MASK)


def command(number: int, name: str, body: Mapping[str, Any]) -> bytes:
    """A command of the Centrifuge protocol in a frame."""
    return frame(encode_command(number, name, body))


def mint(secret: str, subject: str, *, ttl_s: int = 7200, **claims: Any) -> str:
    """An HS256 token (RFC 7519), without a library: a bench needs thousands."""
    now = int(time.time())
    # Every token is another one, so that a cache of verdicts in a server does not make it look fast.
    body = {"sub": subject, "iat": now, "exp": now + ttl_s, "jti": f"{now}-{next(_SERIAL)}", **claims}
    signed = _HEADER + "." + _b64(json.dumps(body, separators=(",", ":")).encode())
    return f"{signed}.{_b64(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"


_SERIAL: Final = itertools.count()


def _b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


_HEADER: Final = _b64(b'{"alg":"HS256","typ":"JWT"}')


def frames(buffer: bytearray, key: bytes = b"") -> list[bytes]:
    """Take the payloads of all whole text frames off the front of `buffer`; other frames are dropped.

    `key`: the key that masks every frame, `NO_MASK` for frames of our clients; servers have none.
    """
    found: list[bytes] = []
    at, have, masked = 0, len(buffer), len(key)
    while have - at >= 2:
        size, start = buffer[at + 1] & 127, at + 2
        if size > 125:
            wide = 2 if size == 126 else 8
            start += wide
            if have < start:
                break
            size = int.from_bytes(buffer[start - wide : start])
        start += masked
        if have < start + size:
            break
        if buffer[at] & 15 == TEXT:
            found.append(bytes(buffer[start : start + size]))
        at = start + size
    del buffer[:at]
    return found
