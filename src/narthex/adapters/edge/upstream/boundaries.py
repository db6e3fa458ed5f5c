"""Follows the boundaries of WebSocket frames in bytes that pass by (RFC 6455 section 5.2). Pure.

The relay passes bytes on as they are. It has to know only whether it stands between two frames, so that it can insert
a close frame there, and whether a close frame has passed. Not here: any check of the frames, which is the receiver's;
a stream that breaks the rules passes, and its receiver fails it. Rules: no payload is copied or read; a read costs one
step for each frame in it.
"""

from __future__ import annotations

from narthex.protocol.framing import CLOSE


class FrameBoundaries:
    """One direction of one connection.

    Attributes:
        closed: a close frame has begun to pass.
    """

    __slots__ = ("_head", "_left", "closed")

    def __init__(self) -> None:
        self._head = b""  # of a frame whose length is not known yet
        self._left = 0  # bytes of the current frame still to come
        self.closed = False

    @property
    def between(self) -> bool:
        """Whether the bytes so far end with a whole frame."""
        return not (self._left or self._head)

    def advance(self, data: bytes) -> None:
        """Follow the bytes of one read."""
        size, at = len(data), self._left
        if at >= size:
            self._left = at - size
            return
        if self._head:
            data, self._head = self._head + data, b""
            size = len(data)
        while at < size:
            if at + 2 <= size and (second := data[at + 1]) & 0x7F < 126:  # most frames, without a call
                end = at + second + 2 if second < 128 else at + second - 122
            else:
                end = _end_of_frame(data, at, size)
            if not end:
                self._head = data[at:]
                at = size
                break
            if data[at] & 0x0F == CLOSE:
                self.closed = True
            at = end
        self._left = at - size

    def cut(self, data: bytes) -> int:
        """Follow the frame under way, and nothing behind it.

        Returns:
            The number of bytes of `data` that belong to that frame. When it ends within them, `between` holds then.
        """
        if self._head:
            whole = self._head + data
            end = _end_of_frame(whole, 0, len(whole))
            if not end:
                self._head = whole
                return len(data)
            if whole[0] & 0x0F == CLOSE:
                self.closed = True
            self._left = end - len(self._head)
            self._head = b""
        taken = min(self._left, len(data))
        self._left -= taken
        return taken


def _end_of_frame(data: bytes, at: int, size: int) -> int:
    """The position behind the frame that begins at `at`, perhaps beyond `data`; 0 while its length is not known."""
    body = at + 2
    if body > size:
        return 0
    second = data[at + 1]
    length = second & 0x7F
    if length > 125:
        body += 2 if length == 126 else 8
        if body > size:
            return 0
        length = int.from_bytes(data[at + 2 : body])
    return body + length + (4 if second > 127 else 0)  # a masking key
