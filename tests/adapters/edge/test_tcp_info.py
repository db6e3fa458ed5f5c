"""The kernel's report of bytes in flight, on real sockets."""

from __future__ import annotations

import asyncio
import socket

from narthex.adapters.edge.tcp_info import send_progress
from narthex.ports.edge import SendProgress
from tests.timing import within


async def test_what_is_read_is_taken() -> None:
    """Bytes in the peer's kernel count as taken; bytes without room there wait until it reads."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with socket.create_connection(listener.getsockname()) as ours, listener.accept()[0] as peer:
            ours.setblocking(False)
            peer.setblocking(False)
            before = send_progress(ours.fileno(), 7)
            assert before.left == 7
            sent = 0
            while sent < 1_000_000:
                try:
                    sent += ours.send(bytes(65_536))
                except BlockingIOError:
                    break
            stuck = send_progress(ours.fileno(), 0)
            assert stuck.left > 0
            assert stuck.taken + stuck.left >= sent
            read = 0
            async with asyncio.timeout(within(5)):
                while read < sent:
                    read += len(await loop.sock_recv(peer, 65_536))
                while send_progress(ours.fileno(), 0).left:  # noqa: ASYNC110 - the last acknowledgement tells nobody
                    await asyncio.sleep(0.01)
            assert send_progress(ours.fileno(), 0).taken >= before.taken + sent


def test_where_the_kernel_does_not_tell_nothing_is_taken() -> None:
    """No socket, or a closed one."""
    assert send_progress(-1, 5) == SendProgress(5, 0)
    with socket.socket() as gone:
        descriptor = gone.fileno()
    assert send_progress(descriptor, 5) == SendProgress(5, 0)
