"""Reads a socket's send progress from the kernel.

Not here: the consequences (app/connection). Rules: where the kernel has no answer (not Linux, a closed descriptor), no
byte counts as taken, so that a client that cannot be seen to read is not kept.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import termios
from typing import Final

from narthex.ports.edge import SendProgress

_TCP_INFO: Final = getattr(socket, "TCP_INFO", None)
# In struct tcp_info (linux/tcp.h): tcpi_bytes_acked and tcpi_bytes_received (since 4.1); tcpi_bytes_sent and
# tcpi_bytes_retrans (since 4.19).
_BYTES: Final = struct.Struct("=120xQQ64xQQ")
_INT: Final = struct.Struct("=i")


def send_progress(descriptor: int, buffered: int) -> SendProgress:
    """Ask the kernel about a connected TCP socket.

    Args:
        descriptor: of the socket; negative: there is none.
        buffered: bytes that are not yet in the kernel.
    """
    if descriptor < 0 or _TCP_INFO is None:
        return SendProgress(buffered, 0)
    try:
        (queued,) = _INT.unpack(fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(_INT.size)))
        # A second Python object on the descriptor, without closing it: asyncio gives out only a view of its socket.
        view = socket.socket(fileno=descriptor)
        try:
            info = view.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _BYTES.size)
        finally:
            view.detach()
    except OSError:
        return SendProgress(buffered, 0)
    taken, received, sent, again = _BYTES.unpack(info.ljust(_BYTES.size, b"\0"))  # older kernels know less
    return SendProgress(buffered + queued, taken, received, sent - again)
