"""The status page stays up and says so while the broker, the store and the gateway are down, one after the other."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests.acceptance.fleet import ADMIN_KEY, shared
from tests.acceptance.program import Program, clean_environment
from tests.services import NatsServer, PostgresServer, data_directory
from tests.timing import within

pytestmark = pytest.mark.acceptance

TOKEN: Final = "status-token-of-the-tests-01"
SEEN_S: Final = within(5)


class Pages:
    """Two pages: that of a gateway which embeds it, and that of a service to which another gateway reports.

    Attributes:
        failures: answers of the pages that were not 200, since the watch began.
    """

    def __init__(self, embedding: Program, service: Program, reporting: Program) -> None:
        self.embedding = embedding
        self.service = service
        self.reporting = reporting
        self.failures: list[str] = []
        self.asked = 0
        self.watched = [service, embedding]

    async def watch(self) -> None:
        """Ask for every form of the watched pages, for ever."""
        async with httpx2.AsyncClient(trust_env=False, verify=False, timeout=within(5)) as client:
            while True:
                for program in tuple(self.watched):
                    for path in ("/status", "/status.json", "/status.atom", "/status/badge.svg"):
                        answer = await client.get(program.http + path)
                        self.asked += 1
                        if answer.status_code != 200:
                            self.failures.append(f"{path}: {answer.status_code}")
                await asyncio.sleep(0.1)

    async def until(self, program: Program, wanted: dict[str, str], within_s: float) -> float:
        """Wait until a page has these states; returns the seconds from now."""
        began = time.monotonic()
        async with httpx2.AsyncClient(trust_env=False, verify=False) as client:
            while True:
                document = (await client.get(f"{program.http}/status.json")).json()
                found = {one["id"]: one["state"] for one in document["components"]}
                if wanted.items() <= found.items():
                    return time.monotonic() - began
                assert time.monotonic() - began < within_s, found
                await asyncio.sleep(0.1)


UP: Final = dict.fromkeys(("connect", "send", "stream", "sign_in"), "operational")


@contextlib.contextmanager
def probing(reporting: Program, service: Program, directory: Path) -> Iterator[None]:
    """`narthex probe`, outside of both."""
    words = (
        "probe",
        reporting.ws,
        "--every",
        "1s",
        "--timeout",
        "2s",
        "--report",
        service.http,
        "--location",
        "outside",
    )
    environment = clean_environment(
        {"NARTHEX_STATUS_TOKEN": TOKEN, "NARTHEX_TOKEN": reporting.token("prober")}
    )
    with (directory / "probe.out").open("ab") as out:
        process = subprocess.Popen(
            service.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment,
            cwd=directory,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(within(10))


@contextlib.asynccontextmanager
async def watching(pages: Pages) -> AsyncIterator[None]:
    """The watch, beside a test."""
    watch = asyncio.get_running_loop().create_task(pages.watch())
    try:
        yield
    finally:
        watch.cancel()
        outcome: Any = (await asyncio.gather(watch, return_exceptions=True))[0]
    assert isinstance(outcome, asyncio.CancelledError), outcome
    assert pages.failures == []
    assert pages.asked > 50


async def test_the_page_stays_up_and_says_so(tmp_path: Path) -> None:
    """Each outage is shown by both pages, none of whose answers is anything but 200; and each end of one is shown."""
    with data_directory("status-broker") as log, data_directory("status-store") as data:
        broker, store = NatsServer(log / "js"), PostgresServer(data / "pg")
        await asyncio.to_thread(store.initialise)
        for server in (broker, store):
            await asyncio.to_thread(server.start)
        environment = shared(broker.url, store.url)
        for name in ("service", "embedding", "reporting"):
            (tmp_path / name).mkdir()
        secrets = {"NARTHEX_ADMIN_KEY": ADMIN_KEY, "NARTHEX_STATUS_TOKEN": TOKEN}
        service = Program(tmp_path / "service", secrets, serving="status serve")
        embedding = Program(tmp_path / "embedding", environment)
        reporting = Program(
            tmp_path / "reporting", environment | secrets | {"NARTHEX_STATUS_URL": service.http}
        )
        pages = Pages(embedding, service, reporting)
        try:
            for program in (service, embedding, reporting):
                await program.start()
            with probing(reporting, service, tmp_path):
                async with watching(pages):
                    await _one_after_the_other(pages, broker, store)
        finally:
            for program in (reporting, embedding, service):
                await asyncio.to_thread(program.end)
            broker.stop()
            store.stop()


async def _one_after_the_other(pages: Pages, broker: NatsServer, store: PostgresServer) -> None:
    both = (pages.embedding, pages.service)
    for program in both:
        await pages.until(program, UP, within(30))

    broker.kill()
    for program in both:
        seen_s = await pages.until(program, {"send": "outage", "stream": "outage"}, within(20))
        print(f"broker down, seen after {seen_s:.1f} s")
    await asyncio.to_thread(broker.start)
    for program in both:
        await pages.until(program, UP, within(60))

    store.kill()
    for program in both:
        seen_s = await pages.until(program, {"send": "outage"}, within(20))
        print(f"store down, seen after {seen_s:.1f} s")
    await asyncio.to_thread(store.start)
    for program in both:
        await pages.until(program, UP, within(60))

    pages.reporting.kill()
    seen_s = await pages.until(pages.service, dict.fromkeys(UP, "outage"), within(20))
    print(f"gateway down, seen after {seen_s:.1f} s")
    assert seen_s < SEEN_S
    headline = (await pages.service.get("/status")).text
    assert "There is an outage" in headline
    await pages.reporting.start()
    await pages.until(pages.service, UP, within(60))


async def test_a_gateway_that_cannot_start_says_so(tmp_path: Path) -> None:
    """Its page opens before its engines do."""
    program = Program(tmp_path, {"NARTHEX_BROKER_URL": "nats://127.0.0.1:9", "NARTHEX_ADMIN_KEY": ADMIN_KEY})
    program.spawn()
    try:
        async with asyncio.timeout(within(30)):
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    document = (await program.get("/status.json")).json()
                    if document.get("state") == "outage":
                        break
                await asyncio.sleep(0.1)
        assert (await program.get("/readyz")).status_code == 503
        assert "127.0.0.1:9" not in str(document)
    finally:
        await asyncio.to_thread(program.end)
