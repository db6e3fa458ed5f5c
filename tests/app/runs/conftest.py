"""Run engines, closed after the test: over the real SQLite engines, and over fakes that can fail."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.adapters.brokers.sqlite.broker import SqliteBroker
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.ports.broker import Control, Member, Publication
from tests.app.runs.rig import Rig


class RecordingHandler:
    """A broker handler that passes control messages to the engines."""

    def __init__(self) -> None:
        self.rig: Rig | None = None

    def publication(self, channel: str, publication: Publication, epoch: str) -> None: ...
    def presence(self, channel: str, member: Member, joined: bool) -> None: ...
    def resync(self, channels: list[str] | None) -> None: ...
    def control(self, message: Control) -> None:
        """As the hub does."""
        for engine in self.rig.engines if self.rig else []:
            if message.node in {"", engine.node}:
                engine.control(message)


@pytest.fixture
async def fake_rig() -> AsyncIterator[Rig]:
    """Engines over fakes."""
    built = Rig()
    yield built
    await built.close()


@pytest.fixture(params=["fakes", "sqlite"])
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    """Engines over fakes, and over SQLite."""
    if request.param == "fakes":
        built = Rig()
        yield built
        await built.close()
        return
    broker, store = SqliteBroker(tmp_path / "log.db"), SqliteStore(tmp_path / "store.db")
    handler = RecordingHandler()
    await broker.start(handler, "n1")
    await store.start()
    built = handler.rig = Rig(broker=broker, store=store)
    yield built
    await built.close()
    await store.stop()
    await broker.stop()
