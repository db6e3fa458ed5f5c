"""Reading server-sent events from a remote agent: bytes in, events out, bounded.

The WHATWG rules that matter here: a byte order mark at the beginning is skipped, lines end in LF, CRLF or CR, `data:`
lines of one event are joined by LF, an empty line ends the event, `id:`, `retry:` and comments are skipped. Two things
that the rules drop are returned, because users need them: an event that the end of the stream cuts off, and a line that
is no field (an error in plain text, JSON without `data:`) as an event of kind `STRAY`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from narthex.ports.agents import AgentError

MAX_EVENT_BYTES: Final = (
    1024 * 1024
)  # four times what the engine takes: its refusal names the event, ours cannot
MESSAGE: Final = "message"
STRAY: Final = "stray"
_BOM: Final = b"\xef\xbb\xbf"
_SKIPPED: Final = frozenset({b"id", b"retry"})


class ServerEvent(NamedTuple):
    """One event: `kind` is its `event:` field, `message` where it has none; `data` is never empty."""

    kind: str
    data: str


class EventReader:
    """Feed it what arrives; it returns every event that is complete."""

    __slots__ = ("_begun", "_buffer", "_data", "_kind", "_size", "_skip_lf")

    def __init__(self) -> None:
        self._buffer = b""
        self._begun = False
        self._kind = ""
        self._data: list[bytes] = []
        self._size = 0
        self._skip_lf = False

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
        """The event that the end of the stream cut off. Raises AgentError as `feed`."""
        last, self._buffer = self._buffer, b""
        found = [self._line(last) if last else None, self._line(b"")]
        return [event for event in found if event is not None]

    def _bound(self, more: int) -> None:
        if self._size + more > MAX_EVENT_BYTES:
            raise AgentError("The agent's endpoint sent an event of more than 1 MB.", "agent_flood")

    def _line(self, line: bytes) -> ServerEvent | None:
        if not line:
            data, self._data, self._size = b"\n".join(self._data), [], 0
            kind, self._kind = self._kind, ""
            return ServerEvent(kind or MESSAGE, _text(data)) if data.strip() else None
        if line.startswith(b":"):
            return None
        name, _, value = line.partition(b":")
        if name == b"data":
            value = value.removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)
            self._bound(0)
        elif name == b"event":
            self._kind = _text(value.removeprefix(b" "))[:100]
        elif name not in _SKIPPED and line.strip():
            return ServerEvent(STRAY, _text(line))
        return None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as fault:
        raise AgentError(
            "The agent's endpoint sent bytes that are not UTF-8.", "agent_event_invalid"
        ) from fault
