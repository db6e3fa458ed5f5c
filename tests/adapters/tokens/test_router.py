"""The router itself: the sources that it starts, stops and includes in health."""

from __future__ import annotations

from typing import Any

from narthex.adapters.tokens.router import TokenRouter


class Source:
    """A key source or an opaque source that only notes its calls."""

    name = "test"
    issuers: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.life: list[str] = []

    async def start(self) -> None:
        """See the port."""
        self.life.append("start")

    async def stop(self) -> None:
        """See the port."""
        self.life.append("stop")


async def test_every_source_is_started_and_stopped() -> None:
    """Those of keys and the one for opaque tokens."""
    sources: list[Any] = [Source(), Source()]
    opaque: Any = Source()
    for router in (TokenRouter(sources, opaque=opaque), TokenRouter(sources)):
        await router.start()
        await router.stop()
    assert [source.life for source in sources] == [["start", "stop"] * 2] * 2
    assert opaque.life == ["start", "stop"]
