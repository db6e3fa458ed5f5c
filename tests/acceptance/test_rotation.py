"""`NARTHEX_MAX_SOCKET_LIFE_S`: sockets are rotated one by one, busy ones later, without a lost event."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.crowd import Client
from tests.acceptance.program import running
from tests.acceptance.sdk import person, text_of
from tests.timing import within

pytestmark = pytest.mark.acceptance


async def test_sockets_are_rotated_each_at_its_own_moment(tmp_path: Path) -> None:
    """Closed with 3011 within 5 % of their life (and one tick of the timer wheel); a run's follower stays until the run
    ends.
    """
    env = {"NARTHEX_MAX_SOCKET_LIFE_S": "4", "NARTHEX_MAX_CONNECTIONS_PER_USER": "200"}
    async with running(tmp_path, env) as program:
        token = await program.login("crowd@example.com")
        clients = [Client("127.0.0.1", program.port, token) for _ in range(100)]
        loop = asyncio.get_running_loop()
        await asyncio.gather(*(client.live() for client in clients))
        began = loop.time()
        listening = asyncio.gather(*(client.listen() for client in clients))
        async with person(program.ws, program.token("ada")) as ada:
            thread_id = (await ada.rpc("thread.create"))["thread_id"]
            await ada.follow(thread_id)
            connected_at = loop.time()
            run = await ada.start("count to 400", thread_id)
            await ada.finished(thread_id, run["run_id"])
            assert len(text_of(ada.run_events(thread_id, run["run_id"])).split()) >= 400
            assert loop.time() - connected_at > 4.5, "the run must outlast the socket's life"
            assert ada.connected == 1
            await ada.until(lambda: ada.connected == 2, "the rotation")
            again = await ada.start("count to 10", thread_id)
            await ada.finished(thread_id, again["run_id"])
        await listening
        lives = sorted(client.closed_at - began for client in clients)
        assert {client.close_code for client in clients} == {3011}
        assert lives[0] > 2.5
        assert lives[-1] < 4.5 + within(1.5)
        assert len({round(life * 4) for life in lives}) > 1
