"""How far a socket's bytes have come, as the kernel knows it.

Not here: what follows from it (app/connection). Rule: where the kernel does not tell (not Linux, a closed
descriptor), nothing counts as taken, so that nobody is kept who cannot be seen to read.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import Final

from narthex.ports.edge import SendProgress

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
_BYTES_ACKED: Final = struct.Struct("=120xQ")  # tcpi_bytes_acked in struct tcp_info (linux/tcp.h, since 4.1)
_INT: Final = struct.Struct("=i")


def send_progress(descriptor: int, buffered: int) -> SendProgress:
    """Ask the kernel about a connected TCP socket.

    Args:
        descriptor: of the socket; negative: there is none.
        buffered: bytes that the kernel was not given yet.
    """
    if descriptor < 0 or _TCP_INFO is None:
        return SendProgress(buffered, 0)
    try:
        (queued,) = _INT.unpack(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(_INT.size)))
        # A second Python object on the descriptor, which is not closed with it: asyncio lends only a view.
        view = socket.socket(fileno=descriptor)
        try:
            info = view.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES_ACKED.size)
        finally:
            view.detach()
    except OSError:
        return SendProgress(buffered, 0)
    taken = _BYTES_ACKED.unpack(info)[0] if len(info) == _BYTES_ACKED.size else 0
    return SendProgress(buffered + queued, taken)
