"""RFC 6455 and 7692 by Autobahn's cases, run by kosoku against the real server."""

from __future__ import annotations

import kosoku
import pytest

from tests.adapters.edge.child import child

# 9.3 and 9.4 send 4 MiB in fragments of 64 bytes and up, 12 and 13 a thousand compressed messages a case.
# Cases 12 and 13 leave kosoku's own data files open.
KOSOKU_LEAVES_FILES_OPEN = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SLOW = ["9.3.*", "9.4.*", "12.*", "13.*"]


async def test_the_fast_subset() -> None:
    """All cases but the slow ones; 7.1.5, which the websockets package refuses, included."""
    with child() as program:
        url = f"ws://127.0.0.1:{program.port}/ws/conformance"
        results = await kosoku.run_fuzzingclient(url, None, SLOW, concurrency=4)
    assert len(results) == 283


@KOSOKU_LEAVES_FILES_OPEN
async def test_some_of_each_slow_group() -> None:
    """One case of each kind that the fast subset leaves out."""
    cases = ["9.3.9", "9.4.9", "12.1.1", "12.2.3", "13.3.1", "13.7.2"]
    with child() as program:
        url = f"ws://127.0.0.1:{program.port}/ws/conformance"
        assert len(await kosoku.run_fuzzingclient(url, cases, None, concurrency=2)) == len(cases)


@KOSOKU_LEAVES_FILES_OPEN
@pytest.mark.conformance
@pytest.mark.timeout(900)
async def test_all_517_cases() -> None:
    """The whole suite: no failure (a failing case raises)."""
    with child() as program:
        url = f"ws://127.0.0.1:{program.port}/ws/conformance"
        assert len(await kosoku.run_fuzzingclient(url, None, None, concurrency=2)) == 517
