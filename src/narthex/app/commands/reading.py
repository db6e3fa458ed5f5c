"""Reads a channel's log for a client: in chunks and up to a number of bytes, however much the client asks for.

Not here: the right to read, the use of the result. Why: publications of 256 KB exist, and thousands of them in one
answer would be gigabytes in the process for one client.
"""

from __future__ import annotations

from typing import Final

from narthex.ports.broker import Broker, Page, Position, Publication

FIRST_CHUNK: Final = 128  # publications of the first read: nearly every returning client has missed fewer
CHUNK: Final = 1_000  # of a later read, if the publications are as small as those before
HISTORY_BYTES: Final = 512 * 1024  # of a history page; its client continues from the last offset
RECOVERY_BYTES: Final = (
    4 * 1024 * 1024
)  # about 10,000 deltas; for a client that missed more, thread.get is cheaper


async def read(
    broker: Broker, key: str, *, since: Position | None, limit: int, max_bytes: int, reverse: bool = False
) -> Page:
    """As `Broker.history`, up to `limit` publications or `max_bytes`, whichever ends first, but at least one.

    Returns:
        The publications, with the log's end at the last read. `complete` is False when it was False in any read.
    """
    found: list[Publication] = []
    left = max_bytes
    chunk = FIRST_CHUNK
    while True:
        asked = min(chunk, limit - len(found))
        page = await broker.history(key, since=since, limit=asked, reverse=reverse)
        for publication in page.publications:
            if found and left < len(publication.data):
                return Page(found, page.top, page.complete)
            found.append(publication)
            left -= len(publication.data)
        if len(page.publications) < asked or len(found) >= limit or not page.complete:
            return Page(found, page.top, page.complete)
        average = (max_bytes - left) // len(found) + 1
        chunk = max(1, min(CHUNK, left // average))
        since = Position(found[-1].offset, page.top.epoch)
