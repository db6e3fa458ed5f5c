"""Servers that the edge's tests share: one per event loop and module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.adapters.edge.harness import LOOPS, Running


@pytest.fixture(scope="module", params=sorted(LOOPS))
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    """A server with the default limits, on each event loop."""
    with Running(loop=request.param) as running:
        yield running
