"""Samples of a prober on their way to a status service, and what waits while it is away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from narthex.errors import DependencyError
from narthex.status.measurements import LATE_S, Sample
from narthex.status.reporting import AT_ONCE, MAX_WAITING, PATH, SampleReporter
from tests.adapters.agents.serving import served

TOKEN = "a-status-token-0123456789"


class Service:
    """A status service that keeps what it is sent, or refuses it."""

    def __init__(self) -> None:
        self.status = 200
        self.detail: object = {}
        self.batches: list[list[dict[str, Any]]] = []
        self.tokens: set[str] = set()

    async def samples(self, request: Request) -> Response:
        """The route of samples."""
        self.tokens.add(request.headers["authorization"])
        if self.status == 200:
            self.batches.append((await request.json())["samples"])
        return JSONResponse(self.detail, status_code=self.status)

    def sources(self) -> list[str]:
        """The sources of all samples, in the order of their arrival."""
        return [sample["source"] for batch in self.batches for sample in batch]


class Reporting:
    """A reporter and the service that it reports to."""

    def __init__(self, url: str, service: Service) -> None:
        self.service = service
        self.now = 10_000.0
        self.reporter = SampleReporter(f"{url}/", [TOKEN], lambda: self.now)

    async def refused(self, *sources: str, at: float = 0.0) -> DependencyError:
        """The error of a report that fails."""
        with pytest.raises(DependencyError) as caught:
            await self.record(*sources, at=at)
        return caught.value

    async def record(self, *sources: str, at: float = 0.0) -> None:
        """Report a sample of each source."""
        await self.reporter.record([sample(source, at) for source in sources])


def sample(source: str, at: float = 0.0) -> Sample:
    """A check that went well."""
    return Sample(component="connect", kind="probe", source=source, good=1, at=at)


@asynccontextmanager
async def reporting() -> AsyncIterator[Reporting]:
    """Both, with the service on a real port."""
    service = Service()
    async with served(Starlette(routes=[Route(PATH, service.samples, methods=["POST"])])) as url:
        one = Reporting(url, service)
        try:
            yield one
        finally:
            await one.reporter.stop()


async def test_a_sample_has_the_moment_at_which_it_was_taken() -> None:
    """Its own, or that of the report; the token of the service is sent with it."""
    async with reporting() as one:
        await one.record("a")
        await one.record("b", at=9_990.0)
        assert [batch[0]["at"] for batch in one.service.batches] == [10_000.0, 9_990.0]
        assert one.service.tokens == {f"Bearer {TOKEN}"}


async def test_samples_wait_for_a_service_that_is_away() -> None:
    """In their order and with their moments; those that the service would not take any more are dropped."""
    async with reporting() as one:
        one.service.status = 503
        await one.refused("old")
        one.now += 1
        await one.refused("late")
        one.service.status = 200
        one.now += LATE_S - 1
        await one.record("new")
        assert one.service.sources() == ["old", "late", "new"]
        assert [entry["at"] for entry in one.service.batches[0]] == [10_000.0, 10_001.0, one.now]
        one.service.status, one.service.batches = 503, []
        await one.refused("old")
        one.service.status = 200
        one.now += LATE_S + 0.1
        await one.record("new")
        assert one.service.sources() == ["new"]


async def test_what_waits_is_bounded_and_sent_in_parts() -> None:
    """The newest are kept; each is sent once, also when a part of them was refused."""
    async with reporting() as one:
        one.service.status = 503
        await one.refused(*(str(number) for number in range(MAX_WAITING + 1)))
        one.service.status = 200
        await one.record()
        assert one.service.sources() == [str(number) for number in range(1, MAX_WAITING + 1)]
        assert {len(batch) for batch in one.service.batches} == {AT_ONCE}
        one.service.batches = []
        await one.record()
        assert one.service.batches == []


@pytest.mark.parametrize(
    ("status", "detail", "words", "remedy"),
    [
        (401, {"detail": "No such token."}, "answered 401: No such token.", "NARTHEX_STATUS_TOKEN"),
        (403, [], "answered 403.", "NARTHEX_STATUS_TOKEN"),
        (500, {"detail": 7}, "answered 500.", "See its log."),
    ],
)
async def test_a_refusal_says_who_must_act(status: int, detail: object, words: str, remedy: str) -> None:
    """With the service's own words, where it has some."""
    async with reporting() as one:
        one.service.status, one.service.detail = status, detail
        fault = await one.refused("a")
        assert words in fault.message
        assert remedy in fault.remedy
        assert TOKEN not in str(fault)


async def test_a_service_that_is_not_there_is_named() -> None:
    """With its address; a reporter that never reported has nothing to close."""
    await SampleReporter("http://127.0.0.1:9", [TOKEN]).stop()
    one = SampleReporter("http://127.0.0.1:9", [TOKEN])
    try:
        with pytest.raises(
            DependencyError, match=r"http://127\.0\.0\.1:9/api/v1/status/samples cannot be reached"
        ):
            await one.record([sample("a")])
    finally:
        await one.stop()
        await one.stop()
