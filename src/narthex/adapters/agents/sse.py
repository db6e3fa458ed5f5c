"""Reading server-sent events from a remote agent: bytes in, events out, bounded.

The WHATWG rules that matter here: a byte order mark at the beginning is skipped, lines end in LF, CRLF or CR, `data:`
lines of one event are joined by LF, an empty line ends the event, `id:`, `retry:` and comments are skipped. Two things
that the rules drop are returned, because users need them: an event that the end of the stream cuts off, and a line that
is no field (an error in plain text, JSON without `data:`) as an event of kind `STRAY`. A field of an unknown name
(`timestamp: 12`) is skipped if an event follows it, else it may be an error's text (`error: no memory`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from narthex.ports.agents import AgentError

MAX_EVENT_BYTES: Final = (
    1024 * 1024
)  # four times what the engine takes: its refusal names the event, ours cannot
MESSAGE: Final = "message"
STRAY: Final = "stray"
KEEP_ALIVES: Final = frozenset({"ping", "keepalive", "keep-alive", "heartbeat"})
"""Kinds of events whose data mean nothing."""
_BOM: Final = b"\xef\xbb\xbf"
_SKIPPED: Final = frozenset({b"id", b"retry"})
_FIELD: Final = re.compile(rb"[a-z][a-z0-9_-]{0,30}:")
_MAX_UNKNOWN: Final = 8


class ServerEvent(NamedTuple):
    """One event: `kind` is its `event:` field, `message` where it has none; `data` is never empty.

    Attributes:
        cut: the end of the stream came before the event's own end: its data may be incomplete.
    """

    kind: str
    data: str
    cut: bool = False


class EventReader:
    """Feed it what arrives; it returns every event that is complete."""

    __slots__ = ("_begun", "_buffer", "_data", "_kind", "_size", "_skip_lf", "_unknown")

    def __init__(self) -> None:
        self._buffer = b""
        self._begun = False
        self._kind = ""
        self._data: list[bytes] = []
        self._size = 0
        self._skip_lf = False
        self._unknown: list[bytes] = []  # fields of unknown names since the last event

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Take the next bytes, cut anywhere.

        Raises:
            AgentError: one event is larger than `MAX_EVENT_BYTES`, or is no UTF-8.
        """
        if not self._begun:
            self._buffer += chunk
            if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
                return []
            self._begun = True
            chunk, self._buffer = self._buffer.removeprefix(_BOM), b""
        if self._skip_lf and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._skip_lf = False
        self._buffer += chunk
        if self._buffer.endswith(b"\r"):
            self._skip_lf = True  # it may be the first half of CRLF
        lines = self._buffer.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        self._buffer = lines.pop()
        found = [event for line in lines if (event := self._line(line)) is not None]
        self._bound(len(self._buffer))
        return found

    def end(self) -> list[ServerEvent]:
        """What the end of the stream cut off: an event, or fields of unknown names. Raises AgentError as `feed`."""
        last, self._buffer = self._buffer, b""
        found = [self._line(last, cut=True) if last else None, self._line(b"", cut=True)]
        if self._unknown:
            found.append(ServerEvent(STRAY, _text(b"\n".join(self._unknown), cut=True), cut=True))
        return [event for event in found if event is not None]

    def _bound(self, more: int) -> None:
        if self._size + more > MAX_EVENT_BYTES:
            raise AgentError("The agent's endpoint sent an event of more than 1 MB.", "agent_flood")

    def _line(self, line: bytes, *, cut: bool = False) -> ServerEvent | None:
        if not line:
            data, self._data, self._size = b"\n".join(self._data), [], 0
            kind, self._kind = self._kind, ""
            if not data.strip():
                return None
            self._unknown.clear()
            return ServerEvent(kind or MESSAGE, _text(data, cut=cut), cut)
        if line.startswith(b":"):
            return None
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)
            self._bound(0)
        elif name == b"event":
            self._kind = _text(value.removeprefix(b" "), cut=cut)[:100]
        elif name in _SKIPPED or not line.strip():
            return None
        elif _FIELD.match(line):
            if len(self._unknown) < _MAX_UNKNOWN:
                self._unknown.append(line)
        else:
            self._unknown.clear()
            return ServerEvent(STRAY, _text(line, cut=cut), cut)
        return None


def _text(data: bytes, *, cut: bool = False) -> str:
    try:
        return data.decode(errors="replace" if cut else "strict")  # a cut may go through a character
    except UnicodeDecodeError as fault:
        raise AgentError(
            "The agent's endpoint sent bytes that are not UTF-8.", "agent_event_invalid"
        ) from fault
