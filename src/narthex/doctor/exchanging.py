"""One request on one raw connection: its bytes, and everything that comes back, unchanged.

Not here: choosing requests (`examination`), their meaning (`diagnosis`). Rules: bounded in time and bytes; the user's
secrets go to the named host only (no redirect is followed) and are removed from every answer.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import time
from typing import Final

import msgspec

from narthex.doctor import heads
from narthex.doctor.dialing import RawConnection, elapsed_ms, open_connection
from narthex.doctor.live import LiveSocket
from narthex.doctor.observations import Attempt, End, HttpExchange
from narthex.doctor.target import Target

BAD_TOKEN: Final = "narthex-doctor.is-no.token"  # noqa: S105 - deliberately no credential
PADDING: Final = "p" * 9 * 1024  # over the 8 KB that many servers stop at, under narthex' 16 KB
MAX_BODY_BYTES: Final = 64 * 1024
SHOWN_BODY: Final = 4000
BODY_WAIT_S: Final = 1.5  # for a body after its head
SECOND_WAIT_S: Final = 0.4  # for a second answer on the socket
BRIEF_SETTLE_S: Final = 0.05
JWT: Final = re.compile(r"eyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?")  # a token of any user in an answer


class Secrets:
    """The user's secrets in the forms in which they are sent; removes them from every answer."""

    def __init__(self, token: str = "", headers: tuple[tuple[str, str], ...] = ()) -> None:
        self.token = token
        self.headers = headers
        self._hidden = sorted({token, *(value for _, value in headers)} - {""}, key=len, reverse=True)

    def scrub(self, text: str) -> str:
        """`text` without any of the values."""
        for value in self._hidden:
            if len(value) >= 4:
                text = text.replace(value, "[hidden]")
        return JWT.sub("[hidden]", text)


class Line:
    """The endpoint and the credential, and how requests to it are made."""

    def __init__(
        self, target: Target, secrets: Secrets, *, timeout_s: float, ca_file: str = "", random_path: str = ""
    ) -> None:
        self.target = target
        self.secrets = secrets
        self.timeout_s = timeout_s
        self.ca_file = ca_file
        self.random_path = random_path or f"/narthex-doctor-{os.urandom(4).hex()}"

    def protocols(self, attempt: Attempt) -> tuple[str, ...]:
        """The subprotocols to offer."""
        offered: tuple[str, ...] = ("narthex.explain",) if attempt.explain else ()
        if attempt.presents != "none" and attempt.carrier == "subprotocol":
            offered = ("jwt-auth", f"jwt.{self._token(attempt)}", *offered)
        return offered

    def request(self, attempt: Attempt, key: str) -> bytes:
        """The bytes of an attempt."""
        headers = [("Host", self.target.authority), ("User-Agent", "narthex-doctor")]
        if attempt.upgrade:
            headers += [
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", key),
            ]
            if offered := self.protocols(attempt):
                headers.append(("Sec-WebSocket-Protocol", ", ".join(offered)))
        else:
            headers += [("Accept", "*/*"), ("Connection", "close")]
        if attempt.origin:
            headers.append(("Origin", attempt.origin))
        if attempt.presents != "none" and attempt.carrier == "authorization" and self._token(attempt):
            headers.append(("Authorization", f"Bearer {self._token(attempt)}"))
        if attempt.presents == "good" and not attempt.bare:
            headers += self.secrets.headers
        if attempt.large:
            headers.append(("X-Padding", PADDING))
        return heads.request(self._resource(attempt), headers)

    def _token(self, attempt: Attempt) -> str:
        return BAD_TOKEN if attempt.presents == "bad" else self.secrets.token

    def _resource(self, attempt: Attempt) -> str:
        if attempt.random_path:
            return self.random_path
        return attempt.path or self.target.resource


class RawAnswer:
    """An answer as it grows; `freeze` makes the observation."""

    def __init__(self, attempt: Attempt, address: str, link: RawConnection, secrets: Secrets) -> None:
        self.link = link
        self.secrets = secrets
        self.began = time.perf_counter()
        self.raw = bytearray()
        self.seen = HttpExchange(attempt=attempt, address=address, end="timeout", connect_ms=link.connect_ms)

    def note(self, **values: object) -> None:
        """Set fields of the observation."""
        self.seen = msgspec.structs.replace(self.seen, **values)

    async def more(self) -> bool:
        """Read the next bytes; False at the end of the stream. Raises ConnectionError on RST."""
        data = await self.link.reader.read(64 * 1024)
        if data and not self.raw:
            self.note(first_byte_ms=elapsed_ms(self.began), at=time.time())
        self.raw += data
        return bool(data)

    def freeze(self) -> HttpExchange:
        """The observation."""
        self.note(total_ms=elapsed_ms(self.began))
        return self.seen


async def exchange(
    line: Line, address: str, attempt: Attempt, *, settle_s: float = BRIEF_SETTLE_S, timeout_s: float = 0.0
) -> HttpExchange:
    """Send one attempt and watch.

    Args:
        line: the endpoint and the credential.
        address: textual address of the host.
        attempt: the request.
        settle_s: how long to watch a socket that opened.
        timeout_s: for the answer; 0 for the line's.
    """
    limit_s = timeout_s or line.timeout_s
    began = time.perf_counter()
    try:
        link = await open_connection(line.target, address, line.timeout_s, line.ca_file)
    except OSError:
        return HttpExchange(attempt=attempt, address=address, end="unreachable", total_ms=elapsed_ms(began))
    answer = RawAnswer(attempt, address, link, line.secrets)
    key = base64.b64encode(os.urandom(16)).decode()
    try:
        link.writer.write(line.request(attempt, key))
        end = await _read_head(answer, limit_s)
        answer.note(end=end, received=len(answer.raw), waited_s=limit_s)
        if end == "response":
            await _read_rest(answer, key, line.protocols(attempt), settle_s, line.timeout_s)
        elif end == "not_http":
            answer.note(start_hex=bytes(answer.raw[:32]).hex())
    finally:
        link.abort()
    return answer.freeze()


async def _read_head(answer: RawAnswer, limit_s: float) -> End:
    try:
        async with asyncio.timeout(limit_s):
            while b"\r\n\r\n" not in answer.raw and b"\n\n" not in answer.raw:
                more = await answer.more()
                if not heads.looks_like_http(bytes(answer.raw[:5])):
                    return "not_http"
                if not more:
                    return "partial" if answer.raw else "eof"
                if len(answer.raw) > heads.MAX_HEAD_BYTES:
                    return "not_http"
    except TimeoutError:
        return "slow" if answer.raw else "timeout"
    except OSError:
        return "partial" if answer.raw else "reset"
    return "response"


async def _read_rest(
    answer: RawAnswer, key: str, offered: tuple[str, ...], settle_s: float, timeout_s: float
) -> None:
    raw = bytes(answer.raw)
    split = min(at for at in (raw.find(b"\r\n\r\n"), raw.find(b"\n\n")) if at >= 0)
    rest = raw[split:].lstrip(b"\r\n") if raw[split : split + 4] != b"\r\n\r\n" else raw[split + 4 :]
    head = heads.parse_head(raw[:split])
    if head is None:
        answer.note(end="not_http", start_hex=raw[:32].hex())
        return
    scrubbed = {name: answer.secrets.scrub(value) for name, value in head.headers.items()}
    answer.note(
        status=head.status, phrase=answer.secrets.scrub(head.phrase[:100]), version=head.version,
        headers=scrubbed, header_count=head.lines,
    )  # fmt: skip
    if head.status == 101 and answer.seen.attempt.upgrade:
        chosen = scrubbed.get("sec-websocket-protocol", "")
        answer.note(subprotocol=chosen, faults=heads.faults_of(head, key, offered))
        await _watch_socket(answer, rest, settle_s, timeout_s)
    else:
        await _read_body(answer, head, rest)


async def _read_body(answer: RawAnswer, head: heads.Head, rest: bytes) -> None:
    length = head.headers.get("content-length", "")
    expected = int(length) if length.isdigit() else None
    start = len(answer.raw) - len(rest)
    ended = await _read_until(answer, start, expected, BODY_WAIT_S)
    if head.status >= 500 and not ended:
        # Some servers answer 500 and then, on the same socket, the answer that was due (signature 20).
        await _read_until(answer, start, None, SECOND_WAIT_S)
    body = bytes(answer.raw[start:])
    second = b""
    if expected is not None:
        body, second = body[:expected], body[expected:]
    elif (at := body.find(b"HTTP/1.1 ")) >= 0:
        body, second = body[:at], body[at:]
    # A narthex's own routes are read as JSON, of which a beginning is worth nothing.
    shown = MAX_BODY_BYTES if answer.seen.attempt.path else SHOWN_BODY
    parsed = heads.parse_head(second.split(b"\r\n\r\n")[0]) if second else None
    text = body.decode("utf-8", "replace")
    answer.note(
        body=answer.secrets.scrub(text)[:shown], body_bytes=len(body), received=len(answer.raw),
        body_cut=ended and expected is not None and len(body) < expected,
        second_status=parsed.status if parsed else 0,
    )  # fmt: skip


async def _read_until(answer: RawAnswer, start: int, expected: int | None, wait_s: float) -> bool:
    """Read a body; True when the stream ended."""
    try:
        async with asyncio.timeout(wait_s):
            while expected is None or len(answer.raw) - start < expected:
                if len(answer.raw) - start > MAX_BODY_BYTES:
                    return False
                if expected is None and answer.raw.endswith(b"0\r\n\r\n"):
                    return False
                if not await answer.more():
                    return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


async def _watch_socket(answer: RawAnswer, rest: bytes, settle_s: float, timeout_s: float) -> None:
    """Ping once, wait for the pong, watch a little longer for a close, and close as a good client does."""
    socket = LiveSocket(answer.link, rest)
    socket.ping()
    await socket.until(lambda: socket.pong_ms is not None, min(timeout_s, 3.0))
    if socket.pong_ms is not None:
        await socket.until(lambda: False, settle_s)
    answer.note(pong_ms=socket.pong_ms)
    if socket.close is not None:
        reason = answer.secrets.scrub(socket.close.reason)
        answer.note(close=msgspec.structs.replace(socket.close, reason=reason))
    elif socket.fault:
        answer.note(frame_fault=socket.fault)
    elif socket.ended:
        answer.note(cut_ms=elapsed_ms(socket.opened))
    await socket.leave()


class UpgradeFailed(Exception):
    """The socket did not open; the message describes the answer in a few words."""


async def open_socket(line: Line, address: str, attempt: Attempt) -> LiveSocket:
    """Upgrade and keep the socket.

    Raises:
        UpgradeFailed: it did not open.
    """
    try:
        link = await open_connection(line.target, address, line.timeout_s, line.ca_file)
    except OSError as error:
        raise UpgradeFailed("no connection") from error
    key = base64.b64encode(os.urandom(16)).decode()
    link.writer.write(line.request(attempt, key))
    try:
        async with asyncio.timeout(line.timeout_s):
            raw = await link.reader.readuntil(b"\r\n\r\n")
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        link.abort()
        raise UpgradeFailed("no answer to the handshake") from error
    head = heads.parse_head(raw[:-4])
    if head is None or head.status != 101:
        link.abort()
        raise UpgradeFailed(f"HTTP {head.status}" if head else "no HTTP answer")
    return LiveSocket(link, b"")
