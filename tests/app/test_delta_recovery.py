"""A recovery with deltas: what it may cost for any texts."""

from __future__ import annotations

import asyncio
import time

import pytest

from narthex.app.commands import reading
from narthex.ports.broker import Publication


def unlike(count: int) -> list[Publication]:
    """Publications between which a delta takes long to find."""
    texts = ("a" * 4_000, "aaaaaaX" * 600)
    return [
        Publication(offset=at + 1, data=f'{{"text":"{texts[at % 2]}"}}'.encode(), tags={})
        for at in range(count)
    ]


async def test_the_time_for_deltas_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """After it publications are whole; until then the loop gets its turn again and again."""
    now = 0.0
    calls = 0

    def delta(source: bytes, target: bytes) -> bytes | None:
        nonlocal now, calls
        now, calls = now + 0.01, calls + 1  # 10 ms of CPU
        return b"d"

    monkeypatch.setattr(reading, "create_delta", delta)
    monkeypatch.setattr(time, "thread_time", lambda: now)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    views = await reading.views_with_deltas(unlike(500), text=True)
    beside.cancel()
    assert calls == 4  # 40 ms
    assert [view.delta for view in views] == [False, *[True] * 4, *[False] * 495]
    assert turns >= calls
