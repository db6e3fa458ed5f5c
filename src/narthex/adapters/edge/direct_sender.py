"""Sends directly to the kernel: `send` on a descriptor that a transport owns, past the transport.

Not here: when it may be used (`websocket`). It is a socket object and not the descriptor, because a disabled socket's
`send` fails even if the number has been reused meanwhile, so that a holder of a direct sender never writes to another
connection. And `send` takes 2.4 µs, `write` 2.65 (the kernel's file layer) and the transport 3.5. Rules: it owns
nothing; the transport closes the descriptor; a direct sender never does, not even at garbage collection.
"""

from __future__ import annotations

import socket


class SocketSender(socket.SocketType):
    """`ports.edge.DirectSender` on one descriptor. It never blocks: the descriptor is non-blocking already.

    Args:
        descriptor: of the connected socket.
    """

    __slots__ = ()

    def __init__(self, descriptor: int) -> None:
        self.enable(descriptor)

    def enable(self, descriptor: int) -> None:
        """Let `send` write to `descriptor` again, after `disable`."""
        # All three are given, so that Python asks the kernel for none of them; `send` uses none.
        super().__init__(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
        if socket.getdefaulttimeout() is not None:  # an agent may have set it, and `send` would wait for it
            self.setblocking(False)

    def disable(self) -> None:
        """Make `send` raise OSError from now on; idempotent."""
        self.detach()

    def __del__(self) -> None:
        """Drop the descriptor first: a collected socket object would close it, and the transport owns it."""
