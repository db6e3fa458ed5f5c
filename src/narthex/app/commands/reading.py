"""Reads a channel's log for a client: in chunks and up to a number of bytes, however much the client asks for; and
the form in which the publications are shown to it.

Not here: the right to read, the use of the result. Why: publications of 256 KB exist, and thousands of them in one
answer would be gigabytes in the process for one client.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import msgspec

from narthex.app.publisher_info import without_info
from narthex.domain.ids import MAX_EXACT_INTEGER
from narthex.ports.broker import Broker, Page, Position, Publication
from narthex.protocol.fossil import create_delta
from narthex.protocol.replies import PublicationView, encode_json

FIRST_CHUNK: Final = 128  # publications of the first read: nearly every returning client has missed fewer
CHUNK: Final = 1_000  # of a later read, if the publications are as small as those before
HISTORY_BYTES: Final = 512 * 1024  # of a history page; its client continues from the last offset
RECOVERY_BYTES: Final = (
    4 * 1024 * 1024
)  # about 10,000 deltas; for a client that missed more, thread.get is cheaper
DELTA_SLICE: Final = 50  # publications shown before the loop gets its turn in any case
DELTA_SLICE_S: Final = 0.002  # of CPU for deltas before it does: one of unlike texts takes 1 ms
MOST_DELTAS: Final = 1_000  # of one recovery …
MOST_DELTAS_S: Final = 0.04  # … and the CPU time for them: no other client shares their cost


def named_position(offset: int, epoch: str) -> Position:
    """A position that a client names: with a number that no log has where it is one that engines cannot hold."""
    return Position(offset if 0 <= offset <= MAX_EXACT_INTEGER else MAX_EXACT_INTEGER, epoch)


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


def view(publication: Publication) -> PublicationView:
    """A publication in the form for clients."""
    tags, info = without_info(publication.tags)
    return PublicationView(
        data=msgspec.Raw(publication.data), offset=publication.offset, tags=tags, info=info
    )


async def views_with_deltas(publications: list[Publication], *, text: bool) -> list[PublicationView]:
    """Successive publications for a client that takes deltas: the first whole, the others as deltas where these are
    shorter. The loop gets its turn in between.

    Args:
        publications: in the log's order.
        text: the client's format is JSON, which carries whole data and deltas as strings.
    """
    found: list[PublicationView] = []
    base: bytes | None = None
    spent_s, turn_ends_s = 0.0, DELTA_SLICE_S
    for at, publication in enumerate(publications):
        if at % DELTA_SLICE == DELTA_SLICE - 1 or spent_s > turn_ends_s:
            turn_ends_s = spent_s + DELTA_SLICE_S
            await asyncio.sleep(0)
        shown = view(publication)
        delta: bytes | None = None
        if base is not None and at < MOST_DELTAS and spent_s < MOST_DELTAS_S:
            began_s = time.thread_time()
            delta = create_delta(base, publication.data)
            spent_s += time.thread_time() - began_s
        base = publication.data
        shown.delta = delta is not None
        data = base if delta is None else delta
        shown.data = msgspec.Raw(encode_json(data.decode()) if text else data)
        found.append(shown)
    return found
