"""An upstream that every test of a module shares, and a guard in front of it on each event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.edge.harness import LOOPS, Running
from tests.adapters.edge.upstream.harness import Guarding


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    """`/ws` records, `/ws/conformance` echoes, `/deny` refuses."""
    with Running() as running:
        yield running


@pytest.fixture(scope="module", params=sorted(LOOPS))
def shared_guard(upstream: Running, request: pytest.FixtureRequest) -> Iterator[Guarding]:
    """A guard in front of `upstream`, for a module."""
    with Guarding(upstream.port, loop=request.param) as running:
        yield running


@pytest.fixture
def guard(upstream: Running, shared_guard: Guarding) -> Guarding:
    """The same for one test, without what earlier ones left in the queues."""
    for queue in (
        *(upstream.gate.heads, upstream.gate.receivers),
        *(shared_guard.admission.admitted, shared_guard.results),
    ):
        while not queue.empty():
            queue.get()
    return shared_guard
