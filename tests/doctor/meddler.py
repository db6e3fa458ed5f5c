"""A proxy that forwards HTTP and WebSockets, and changes heads and bytes as a test requests.

Not here: faults of plain TCP (`tests.fault_proxy`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable

Change = Callable[[bytes], bytes]


def same(data: bytes) -> bytes:
    """Change nothing."""
    return data


def without(*names: str) -> Change:
    """Remove headers from a head."""
    lowered = tuple(f"{name.lower()}:".encode() for name in names)

    def change(head: bytes) -> bytes:
        lines = head.split(b"\r\n")
        return b"\r\n".join(line for line in lines if not line.lower().startswith(lowered))

    return change


def replaced(old: bytes, new: bytes) -> Change:
    """Replace bytes."""
    return lambda data: data.replace(old, new)


@contextlib.asynccontextmanager
async def meddling(
    upstream: int,
    *,
    request: Change = same,
    response: Change = same,
    after: bytes | None = None,
    cut_after_head: bool = False,
    keep: int = 0,
    one_at_a_time_s: float = 0.0,
) -> AsyncIterator[int]:
    """Forward to `upstream`.

    Args:
        upstream: port of the real server.
        request: changes the request's head.
        response: changes the response's head.
        after: sent to the client after a 101's head, instead of the server's data.
        cut_after_head: close both sides after the response's head.
        keep: bytes of the response that pass before a cut; 0 for all.
        one_at_a_time_s: send the response's head byte by byte, this far apart.
    """
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", upstream)
        try:
            back.write(request(await reader.readuntil(b"\r\n\r\n")))
            head = response(await there.readuntil(b"\r\n\r\n"))
            pieces: Iterable[bytes] = [head[:keep] if keep else head]
            if one_at_a_time_s:
                pieces = (head[at : at + 1] for at in range(len(head)))
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(one_at_a_time_s)
            if keep or (cut_after_head and b" 101 " in head):
                return
            if after is not None and b" 101 " in head:
                writer.write(after)
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, back))
                group.create_task(_pump(there, writer))
        except* (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()
            back.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()
    sink.close()
