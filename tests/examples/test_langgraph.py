"""examples/langgraph, with the packages that its README installs: opt-in, because they are some 60 MB."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.examples.following import answered, connected, example, rows
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.soak, pytest.mark.timeout(within(400))]


async def test_langgraph(tmp_path: Path) -> None:
    """A tool answers, `interrupt` becomes a question, and its approval goes on in the graph."""
    async with (
        example("langgraph", tmp_path, patience_s=within(300)) as walk,  # pip installs them
        connected(walk, "langgraph", "ada") as ada,
    ):
        told = rows(walk)
        *plain, booking = told
        assert len(plain) == 2
        for message in plain:
            assert (await answered(ada, message)).text.strip() == told[message]
        asked = await answered(ada, booking)
        assert asked.outcome == "interrupt"
        assert asked.interrupts[0]["message"] == "Book R 7 at 11:40 to Bergen?"
        approved = await asked.resume(asked.interrupts[0]["id"], {"approved": True})
        await approved.wait(within(20))
        assert approved.text.strip() == told[booking].partition("*: ")[2]
