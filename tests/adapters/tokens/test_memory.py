"""The fake of these tests passes the contract of its port."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from narthex.ports.store import Store
from tests.adapters.tokens.memory import MemoryCredentials
from tests.contracts.test_store_credentials import (  # noqa: F401 - collected here with the fake
    TestKeys,
    TestRefresh,
    TestRevocations,
    TestTickets,
    TestUsers,
)


async def nothing() -> None:
    """The fake has no life of its own."""


class MemoryRig:
    """Stores over one memory."""

    shared = True

    def __init__(self) -> None:
        self._credentials = MemoryCredentials()

    def make(self) -> Store:
        """A store that has credentials only."""
        return cast("Store", SimpleNamespace(credentials=self._credentials, start=nothing, stop=nothing))

    def spec(self) -> str:
        """No other process can reach it."""
        raise NotImplementedError


@pytest.fixture
def store_rig() -> MemoryRig:
    """Instead of the engines' rigs."""
    return MemoryRig()


@pytest.fixture
def store(store_rig: MemoryRig) -> Store:
    """Instead of a started engine."""
    return store_rig.make()
