"""SIGTERM at a server with a guarded application: the sockets are drained before the server acts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from narthex.guard.lifespan import Signals
from tests.guard.cores import token, until
from tests.guard.servers import serving
from tests.timing import within

SIGNALS = (signal.SIGTERM, signal.SIGINT)
DRAINING = ["uvicorn-websockets", "uvicorn-wsproto", "hypercorn", "granian"]
"""The servers that docs/guard.md lets drain on SIGTERM; daphne ends without."""


@pytest.mark.acceptance
@pytest.mark.parametrize("kind", DRAINING)
async def test_sigterm_drains_and_then_ends_the_server(kind: str, tmp_path: Path) -> None:
    """Each client gets 3001 with its reason, no server's own code, and each handler its end; the process ends."""
    async with serving(kind, "starlette", tmp_path, {"NARTHEX_DRAIN_GRACE_S": "2"}) as guard:
        async with AsyncExitStack() as stack:
            held: list[ClientConnection] = []
            for name in ("ann", "bob", "eve"):
                headers = {"Authorization": f"Bearer {token(name)}"}
                held.append(
                    await stack.enter_async_context(
                        connect(guard.url, additional_headers=headers, proxy=None)
                    )
                )
                await held[-1].send(name)
                assert await asyncio.wait_for(held[-1].recv(), within(5)) == name
            guard.process.send_signal(signal.SIGTERM)
            for client in held:
                with pytest.raises(ConnectionClosed):
                    await asyncio.wait_for(client.recv(), within(10))
                assert client.close_code == 3001
                assert str(client.close_reason).startswith("draining")
        await asyncio.wait_for(guard.process.wait(), within(15))
        assert guard.reached.count("ended 3001") == 3


@pytest.fixture
def server() -> Iterator[list[int]]:
    """The signals that a server's own handler got; the process's handlers come back at the end."""
    got: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, lambda number, _: got.append(number))
    yield got
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
async def test_the_server_acts_after_the_drain(server: list[int], number: signal.Signals) -> None:
    """Not before; its handlers are its own again once the application has ended."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def drain() -> None:
        began.set()
        await go_on.wait()

    signals = Signals(drain)
    signals.install()
    os.kill(os.getpid(), number)
    await asyncio.wait_for(began.wait(), within(5))
    assert server == []
    go_on.set()
    await until(lambda: server == [number])
    signals.restore()
    os.kill(os.getpid(), number)
    await until(lambda: server == [number, number])


async def test_a_second_signal_is_the_server_s_at_once(server: list[int]) -> None:
    """An operator who sends it does not want to wait for the drain."""
    began, go_on = asyncio.Event(), asyncio.Event()

    async def drain() -> None:
        began.set()
        await go_on.wait()

    signals = Signals(drain)
    signals.install()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(began.wait(), within(5))
    assert server == []
    os.kill(os.getpid(), signal.SIGTERM)
    await until(lambda: server == [signal.SIGTERM])
    signals.restore()
    go_on.set()
    await until(lambda: signals._task is not None and signals._task.done())
    assert server == [signal.SIGTERM]
