"""A rolling deploy: a gateway of the released version 0.1.0 beside one of this checkout on the same engines."""

from __future__ import annotations

import asyncio
import io
import subprocess
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.fleet import ADMIN_KEY, Fleet, engines, shared
from tests.acceptance.program import Program
from tests.campaigns.caller import calling
from tests.campaigns.follower import ROOT, SERVED, token
from tests.history import Recorder
from tests.services import ValkeyServer, data_directory, missing
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.soak, pytest.mark.timeout(240)]

RELEASED: Final = "03a2c35"
"""The commit of version 0.1.0."""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of version 0.1.0."""
    archive = subprocess.run(["git", "archive", RELEASED, "src"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        missing(f"commit {RELEASED}", "git fetch --unshallow")
    directory = tmp_path_factory.mktemp("released")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as found:
        found.extractall(directory, filter="data")
    return directory / "src"


@pytest.fixture(params=["nats", "redis"])
async def pair(
    request: pytest.FixtureRequest, released: Path, tmp_path: Path
) -> AsyncIterator[tuple[Program, Program]]:
    """The gateway of 0.1.0, started first, and the one of this checkout."""
    async with engines() as (nats, _, store_url):
        with data_directory("redis") as data:
            redis = ValkeyServer(data)
            fleet = Fleet(tmp_path, SERVED)
            try:
                if request.param == "redis":
                    await asyncio.to_thread(redis.start)
                url = redis.url if request.param == "redis" else nats.url
                both = shared(url, store_url)
                direct = both.pop(
                    "NARTHEX_DIRECT_MEMBERSHIP"
                )  # 0.1.0 has no such setting and always does this
                fleet.env |= both
                old = await fleet.gateway(PYTHONPATH=str(released))
                new = await fleet.gateway(NARTHEX_DIRECT_MEMBERSHIP=direct)
                yield old, new
            finally:
                await asyncio.to_thread(fleet.end)
                redis.kill()


async def test_what_the_new_node_ends_ends_at_the_old_one(pair: tuple[Program, Program]) -> None:
    """A removed member, a disconnected user and a cancelled run; events are seen across both meanwhile."""
    old, new = pair
    recorder = Recorder()
    async with (
        calling(new.port, token("ada"), recorder, "ada", "ada") as ada,
        calling(old.port, token("bob"), recorder, "bob", "bob") as bob,
        calling(old.port, token("carol"), recorder, "carol", "carol") as carol,
    ):
        assert '"0.1.0"' in (await old.get("/ws/health")).text
        thread = (await ada.rpc("thread.create"))["thread_id"]
        await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
        await bob.command("subscribe", channel=f"thread:{thread}", recoverable=True, positioned=True)
        async with asyncio.timeout(within(10)):
            await ada.rpc("run.start", thread_id=thread, text="hi", client_message_id="c1")
            await bob.until("RUN_FINISHED")
            await ada.rpc("thread.members.remove", thread_id=thread, user_id="bob")
            await bob.until("'unsubscribe'")
            answer = await new.post(
                "/api/v1/disconnect",
                json={"tenant": "acme", "user": "carol", "code": 3503, "reason": "out"},
                headers={"Authorization": f"Bearer {ADMIN_KEY}"},
            )
            assert answer.status_code == 200, answer.text
            await carol.ended.wait()
        assert carol.code == 3503
