"""Taps show a trace the frames and commands of a connection. An untapped connection is not touched.

Not here: which connections are traced, for how long, for whom (`tracing`). Rules: a tap changes nothing that passes;
its own fault is logged and harms no connection; credentials are never in an entry, other texts only when payloads are
allowed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import msgspec
import structlog

from narthex.app.connection import Connection
from narthex.ports.edge import DirectSender, SendProgress, Socket
from narthex.protocol.framing import RSV1, Framing, Prepared
from narthex.protocol.session import ReceivedCommand, Session

MAX_SHOWN: Final = 2_000  # characters of one entry
MAX_TEXT: Final = 40  # of a name that is shown also when payloads are masked
NAMES: Final = frozenset(
    {
        "channel",
        "client",
        "code",
        "epoch",
        "error",
        "message",
        "messageId",
        "method",
        "name",
        "reason",
        "role",
        "runId",
        "run_id",
        "threadId",
        "thread_id",
        "toolCallId",
        "toolCallName",
        "type",
        "version",
    }
)
"""Members whose texts say what happens and not what a person wrote."""
CREDENTIALS: Final = frozenset(
    {"authorization", "cookie", "password", "secret", "session", "ticket", "token"}
)
"""Members that are never shown."""

OPERATORS_PUSH: Final = b'"channel":"operator:'

log = structlog.get_logger("narthex.fleet", log_name="narthex.fleet")

Seen = Callable[[Connection, str, str, int, str], None]
"""Takes the connection, the direction (`in`, `out`), the kind, the size in bytes, and the shown body."""


class Tap:
    """One tapped connection; see the module.

    Args:
        connection: to tap.
        seen: takes every message.
        payloads: whether texts are shown.
    """

    def __init__(self, connection: Connection, seen: Seen, *, payloads: bool) -> None:
        self.connection = connection
        self._socket, self._session = connection.socket, connection.session

        def sent(payload: bytes) -> None:
            if OPERATORS_PUSH in payload[:40]:  # of an operator who watches their own trace
                return
            try:
                kind, body = described(payload, payloads=payloads)
                seen(connection, "out", kind, len(payload), body)
            except Exception:  # a bug: the message itself has been sent
                log.exception("tap_raised")

        def received(commands: list[ReceivedCommand], size: int) -> None:
            try:
                for command in commands:
                    shown = {"id": command.id, command.name: command.request}
                    seen(connection, "in", command.name, size, masked(shown, payloads=payloads))
            except Exception:  # a bug: the commands are executed all the same
                log.exception("tap_raised")

        connection.socket = TappedSocket(self._socket, sent)
        connection.session = cast("Session", TappedSession(self._session, received))
        self._refresh()

    def remove(self) -> None:
        """Let everything pass unseen again."""
        self.connection.socket, self.connection.session = self._socket, self._session
        self._refresh()

    def _refresh(self) -> None:
        """Channels keep direct senders of their members: they must ask again."""
        for subscription in self.connection.subscriptions.values():
            subscription.channel.recipients_changed()


class TappedSocket:
    """A `ports.edge.Socket` that shows what is sent; without a direct sender, which would pass it by."""

    direct_sender: DirectSender | None = None

    def __init__(self, inner: Socket, sent: Callable[[bytes], None]) -> None:
        self._inner = inner
        self._sent = sent
        self.framing = inner.framing
        self.session = inner.session

    def send(self, message: Prepared) -> None:
        """See `Socket`."""
        self._inner.send(message)
        self._sent(message.payload)

    def send_frames(self, frames: bytes) -> None:
        """See `Socket`."""
        self._inner.send_frames(frames)
        for payload in payloads_of(self.framing, frames):
            self._sent(payload)

    def send_rest(self, rest: bytes) -> None:
        """See `Socket`: of a direct send that began before the tap."""
        self._inner.send_rest(rest)

    def buffered(self) -> int:
        """See `Socket`."""
        return self._inner.buffered()

    def send_progress(self) -> SendProgress:
        """See `Socket`."""
        return self._inner.send_progress()

    def close(self, code: int, reason: str) -> None:
        """See `Socket`."""
        self._sent(msgspec.json.encode({"close": {"code": code, "reason": reason}}))
        self._inner.close(code, reason)

    def abort(self) -> None:
        """See `Socket`."""
        self._inner.abort()


class TappedSession:
    """A `protocol.session.Session` that shows what is received."""

    def __init__(self, inner: Session, received: Callable[[list[ReceivedCommand], int], None]) -> None:
        self._inner = inner
        self._received = received

    def receive(self, frame: bytes, now: float) -> list[ReceivedCommand]:
        """See `Session`."""
        found = self._inner.receive(frame, now)
        self._received(found, len(frame))
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


# -- describing ----------------------------------------------------------------------------------------------------


def described(payload: bytes, *, payloads: bool) -> tuple[str, str]:
    """The kind of an outbound message (`reply`, `push`, `ping` …), and its shown body."""
    kinds: list[str] = []
    bodies: list[str] = []
    for line in payload.split(b"\n"):
        try:
            value = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            return "protobuf", ""
        kinds.append(_kind(value))
        bodies.append(masked(value, payloads=payloads))
    return kinds[0], "\n".join(bodies)[:MAX_SHOWN]


def _kind(value: object) -> str:
    if not isinstance(value, dict) or not value:
        return "ping"
    if "push" in value and isinstance(value["push"], dict):
        return "push " + next((name for name in value["push"] if name != "channel"), "")
    if "error" in value:
        return "error"
    return "reply" if "id" in value else str(next(iter(value)))


def masked(value: object, *, payloads: bool) -> str:
    """A message as JSON text, at most `MAX_SHOWN` characters; texts of people masked unless `payloads`."""
    return msgspec.json.encode(_masked("", value, payloads)).decode()[:MAX_SHOWN]


def _masked(name: str, value: object, payloads: bool) -> object:
    if name.lower() in CREDENTIALS and value:
        return "(a credential)"
    if isinstance(value, msgspec.Raw):
        value = bytes(value)
    if isinstance(value, bytes):
        try:
            value = msgspec.json.decode(value)
        except (msgspec.DecodeError, RecursionError):
            return "(bytes)"
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict):
        return {str(key): _masked(str(key), member, payloads) for key, member in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(name, member, payloads) for member in value]
    if isinstance(value, str) and not payloads and not (name in NAMES and len(value) <= MAX_TEXT):
        return f"({len(value)} characters)"
    return value


def payloads_of(framing: Framing, frames: bytes) -> Iterator[bytes]:
    """The messages in bytes that were framed for a transport (`protocol.framing`)."""
    if framing in (Framing.HTTP_STREAM, Framing.PROTOBUF_HTTP_STREAM):
        yield frames.rstrip(b"\n")
    elif framing == Framing.SSE:
        yield b"\n".join(line[6:] for line in frames.split(b"\n") if line.startswith(b"data: "))
    else:
        yield from _websocket_payloads(frames)


def _websocket_payloads(frames: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 <= len(frames):
        first, size = frames[at], frames[at + 1] & 0x7F
        at += 2
        if size >= 126:
            width = 2 if size == 126 else 8
            size = int.from_bytes(frames[at : at + width])
            at += width
        payload = frames[at : at + size]
        at += size
        if first & RSV1:
            payload = zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")
        yield payload
