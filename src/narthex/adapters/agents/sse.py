"""Reading server-sent events from a remote agent: bytes in, data strings out, bounded.

The WHATWG rules that matter here: lines end in LF, CRLF or CR, `data:` lines of one event are joined by LF, an
empty line ends the event, everything else (`event:`, `id:`, comments) is skipped.
"""

from __future__ import annotations

from typing import Final

from narthex.ports.agents import AgentError

MAX_EVENT_BYTES: Final = (
    1024 * 1024
)  # four times what the engine takes: its refusal names the event, ours cannot


class EventReader:
    """Feed it what arrives; it gives the data of every event that is complete."""

    __slots__ = ("_buffer", "_data", "_size", "_skip_lf")

    def __init__(self) -> None:
        self._buffer = b""
        self._data: list[bytes] = []
        self._size = 0
        self._skip_lf = False

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes, cut anywhere.

        Raises:
            AgentError: one event is larger than `MAX_EVENT_BYTES`, or is no UTF-8.
        """
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

    def _bound(self, more: int) -> None:
        if self._size + more > MAX_EVENT_BYTES:
            raise AgentError("The agent's endpoint sent an event of more than 1 MB.", "agent_flood")

    def _line(self, line: bytes) -> str | None:
        if not line:
            data, self._data, self._size = b"\n".join(self._data), [], 0
            if not data:
                return None
            try:
                return data.decode()
            except UnicodeDecodeError as fault:
                raise AgentError(
                    "The agent's endpoint sent bytes that are not UTF-8.", "agent_event_invalid"
                ) from fault
        if line.startswith(b"data:"):
            value = line[5:].removeprefix(b" ")
            self._data.append(value)
            self._size += len(value)
            self._bound(0)
        return None
