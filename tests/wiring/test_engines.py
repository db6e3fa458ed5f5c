"""The engines that the settings name, and a running gateway's report of their guarantees."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from narthex.settings import load
from narthex.testing import gateway
from narthex.wiring.engines import make_broker, make_store


@pytest.mark.parametrize(("value", "words"), [("normal", "may be missing"), ("full", "power loss included")])
def test_sqlite_synchronous_reaches_both_engines(tmp_path: Path, value: str, words: str) -> None:
    """One setting for the log and the store, and each reports its guarantee."""
    settings = load({"data_dir": tmp_path, "sqlite_synchronous": value}, {})
    for engine in (make_broker(settings), make_store(settings)):
        assert words in engine.durability, engine.durability


async def test_health_says_what_the_engines_promise(tmp_path: Path) -> None:
    """The details of `broker` and `store`; in production they are for operators only, in `/ws/stats`."""
    async with gateway(tmp_path, sqlite_synchronous="full") as running:
        parts = running.gateway.parts
        assert parts is not None
        async with httpx2.AsyncClient(trust_env=False) as client:
            checks = (await client.get(f"{running.http}/ws/health")).json()["checks"]
        assert checks["broker"]["detail"] == parts.broker.durability
        assert checks["store"]["detail"] == parts.store.durability
