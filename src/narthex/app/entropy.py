"""Random bytes from the kernel, fetched in blocks: a system call a handshake would cost more than verifying it.

Not here: keys, tickets and tokens (`secrets` makes those, one call each). Rules: a byte is given out once; the
quality is the kernel's; a forked process must not share a pool (narthex forks nowhere: workers are spawned).
"""

from __future__ import annotations

import os
from typing import Final

BLOCK: Final = 4096
_VARIANT: Final = {
    digit: "89ab"[number % 4] for number, digit in enumerate("0123456789abcdef")
}  # keeps 2 of 4 bits


class Entropy:
    """A pool of random bytes."""

    __slots__ = ("_at", "_block")

    def __init__(self) -> None:
        self._block = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """`count` fresh bytes, at most `BLOCK`."""
        at = self._at
        end = at + count
        if end > len(self._block):
            self._block = os.urandom(BLOCK)
            at, end = 0, count
        self._at = end
        return self._block[at:end]

    def uuid4(self) -> str:
        """A random UUID's text (RFC 9562 section 5.4), without building the object."""
        text = self.take(16).hex()
        return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}"


ENTROPY: Final = Entropy()
"""This process's pool; only the event loop's thread uses it."""
