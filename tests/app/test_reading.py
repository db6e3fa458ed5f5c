"""`narthex.app.commands.reading`: a log is read in chunks, and no further than requested."""

from __future__ import annotations

import pytest

from narthex.app.commands.reading import CHUNK, FIRST_CHUNK, read
from narthex.ports.broker import Page, Position
from tests.app.runs.fakes import FakeBroker

CHANNEL = "acme/thread:t"


class Counted(FakeBroker):
    """A broker that notes the size of each read."""

    def __init__(self, publications: int, size: int = 10) -> None:
        super().__init__()
        self.asked: list[int | None] = []
        self._wanted = (publications, size)

    async def fill(self) -> Counted:
        """Publish the log's content."""
        publications, size = self._wanted
        for number in range(publications):
            await self.publish(CHANNEL, str(number).rjust(size).encode())
        return self

    async def history(
        self, channel: str, *, since: Position | None = None, limit: int | None = None, reverse: bool = False
    ) -> Page:
        """As the port, noted."""
        self.asked.append(limit)
        return await super().history(channel, since=since, limit=limit, reverse=reverse)


@pytest.mark.parametrize("limit", [1, FIRST_CHUNK - 1, FIRST_CHUNK, FIRST_CHUNK + 1, FIRST_CHUNK + 2, 300])
async def test_no_more_is_read_than_was_asked_for(limit: int) -> None:
    """The last chunk has the size of the rest, whatever the chunk size may be."""
    broker = await Counted(400).fill()
    page = await read(broker, CHANNEL, since=Position(0, ""), limit=limit, max_bytes=1_000_000)
    assert [entry.offset for entry in page.publications] == list(range(1, limit + 1))
    assert broker.asked == ([limit] if limit <= FIRST_CHUNK else [FIRST_CHUNK, limit - FIRST_CHUNK])


async def test_chunks_are_bounded_and_the_end_is_found() -> None:
    """A long log of small publications comes in chunks of a thousand, the last of which is not full."""
    broker = await Counted(FIRST_CHUNK + CHUNK + 5).fill()
    page = await read(broker, CHANNEL, since=Position(0, ""), limit=10_000, max_bytes=10_000_000)
    assert len(page.publications) == FIRST_CHUNK + CHUNK + 5
    assert broker.asked == [FIRST_CHUNK, CHUNK, CHUNK]


async def test_publications_of_one_byte_are_read_in_chunks() -> None:
    """The size of the next chunk follows from the average so far, which is never zero."""
    broker = Counted(0)
    for _ in range(FIRST_CHUNK + 5):
        await broker.publish(CHANNEL, b"1")
    page = await read(broker, CHANNEL, since=Position(0, ""), limit=10_000, max_bytes=1_000)
    assert len(page.publications) == FIRST_CHUNK + 5
    assert broker.asked == [FIRST_CHUNK, (1_000 - FIRST_CHUNK) // 2]


async def test_the_bytes_end_a_page_but_one_publication_always_comes() -> None:
    """At the limit exactly, and one byte beyond it."""
    broker = await Counted(50, size=100).fill()
    for max_bytes, count in ((1_000, 10), (999, 9), (1, 1), (0, 1)):
        page = await read(broker, CHANNEL, since=Position(0, ""), limit=50, max_bytes=max_bytes)
        assert len(page.publications) == count
        assert page.top.offset == 50
