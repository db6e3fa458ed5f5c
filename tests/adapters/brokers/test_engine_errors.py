"""The errors of a shared engine's broker, and the duration of its retries."""

from __future__ import annotations

import asyncio

import pytest

from narthex.adapters.brokers.engine_errors import EngineErrors, Retrier
from narthex.adapters.brokers.nats import appending as nats
from narthex.adapters.brokers.redis import appending as redis
from narthex.adapters.sqlite import batching
from narthex.errors import DependencyError, Overloaded
from tests.timing import within

ENGINE = EngineErrors("Engine", "The engine")


class Away(Exception):
    """A fault that may be over at the next attempt."""


class Server:
    """Away for the first `faults` calls.

    Attributes:
        healed: the reported faults.
    """

    def __init__(self, faults: int) -> None:
        self.faults = faults
        self.healed: list[Exception] = []
        self.stopping = False

    async def call(self) -> str:
        """One request."""
        self.faults -= 1
        if self.faults >= 0:
            raise Away
        return "answer"

    async def heal(self, fault: Exception) -> None:
        """See `Retrier`."""
        self.healed.append(fault)

    def patience(self, timeout_s: float) -> Retrier:
        """With this server."""
        return Retrier(
            ENGINE, "h:1", timeout_s, passing=(Away,), heal=self.heal, stopping=lambda: self.stopping
        )


async def test_what_passes_is_tried_again() -> None:
    """Until it works; each fault is reported before the next attempt."""
    server = Server(faults=2)
    assert await server.patience(within(5)).call(server.call) == "answer"
    assert [type(fault) for fault in server.healed] == [Away, Away]


async def test_patience_ends() -> None:
    """After its time-out with an error that names the address, whether the engine refuses or hangs."""
    server = Server(faults=10_000)
    with pytest.raises(DependencyError, match=r"The engine at h:1 did not answer: no answer within 0\.1 s"):
        await server.patience(0.1).call(server.call)
    with pytest.raises(DependencyError, match="no answer within"):
        await server.patience(0.01).call(asyncio.Event().wait)


async def test_what_does_not_pass_is_raised() -> None:
    """At once, and so is every fault while it stops."""

    async def refused() -> None:
        raise ValueError

    server = Server(faults=1)
    with pytest.raises(ValueError):
        await server.patience(within(5)).call(refused)
    server.stopping = True
    with pytest.raises(DependencyError, match="did not answer: Away"):
        await server.patience(within(5)).call(server.call)
    assert server.healed == []


def test_errors_say_who_and_what_to_do() -> None:
    """The engine's name, and a remedy."""
    assert "not running" in ENGINE.not_running().message
    assert isinstance(ENGINE.full(7), Overloaded)
    assert "same key" in ENGINE.late(12).remedy


def test_a_queue_is_full_at_the_same_number_on_every_engine() -> None:
    """Publishers and operators see one limit."""
    assert (batching.MAX_PENDING, nats.MAX_PENDING, redis.MAX_PENDING) == (20_000, 20_000, 20_000)
