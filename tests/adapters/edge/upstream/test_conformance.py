"""RFC 6455 and 7692 by Autobahn's cases, run by kosoku through a relay to the real echo server."""

from __future__ import annotations

import kosoku

from tests.adapters.edge.child import child
from tests.adapters.edge.test_conformance import SLOW
from tests.adapters.edge.upstream.harness import Guarding


async def test_the_fast_subset_through_a_relay() -> None:
    """Every answer of the upstream's, its failures and its close codes included, passes as it is."""
    with child() as program, Guarding(program.port) as guard:
        url = f"ws://localhost:{guard.port}/ws/conformance"
        results = await kosoku.run_fuzzingclient(url, None, SLOW, concurrency=4)
    assert len(results) == 283
