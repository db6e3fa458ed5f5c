"""Fixtures of the contract suites: one parameter an engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.ports.broker import Broker
from narthex.ports.store import Store
from tests.contracts.recorder import Recorder
from tests.contracts.rigs import BrokerRig, SqliteBrokerRig, SqliteStoreRig, StoreRig


@pytest.fixture(params=["sqlite"])
def broker_rig(request: pytest.FixtureRequest, tmp_path: Path) -> BrokerRig:
    """Every engine in turn."""
    return SqliteBrokerRig(tmp_path)


@pytest.fixture(params=["sqlite"])
def store_rig(request: pytest.FixtureRequest, tmp_path: Path) -> StoreRig:
    """Every engine in turn."""
    return SqliteStoreRig(tmp_path)


@pytest.fixture
async def recorder() -> Recorder:
    """The handler of `broker`."""
    return Recorder()


@pytest.fixture
async def broker(broker_rig: BrokerRig, recorder: Recorder) -> AsyncIterator[Broker]:
    """A started broker, node `n1`."""
    made = broker_rig.make()
    await made.start(recorder, "n1")
    yield made
    await made.stop()


@pytest.fixture
async def store(store_rig: StoreRig) -> AsyncIterator[Store]:
    """A started store."""
    made = store_rig.make()
    await made.start()
    yield made
    await made.stop()
