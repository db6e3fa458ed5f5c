"""`narthex check --connect`: contacts every engine, issuer and agent once.

Not here: checks that need no connection (`start_checks`). Rules: nothing is written anywhere, so that it may run
against production before a deploy; each check is bounded; all run, also after a failure; no secret is in a result.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, NamedTuple

from narthex.adapters.telemetry.metrics import PrometheusMeter
from narthex.errors import ConfigError, DependencyError, NarthexError
from narthex.settings import IssuerSettings, Settings
from narthex.wiring.agents import load_agents
from narthex.wiring.engines import reach_broker, reach_store
from narthex.wiring.tokens import make_issuer

PATIENCE_S: Final = 12.0  # above every adapter's own bound, so that people read the adapter's message
POLL_S: Final = 0.05
NOT_YET: Final = "not fetched yet"


class ConnectionCheck(NamedTuple):
    """The result of one connection. `kind`: broker, store, issuer or agent; `remedy` is empty when it is `ok`."""

    kind: str
    name: str
    ok: bool
    detail: str
    remedy: str
    ms: float


async def check_connections(settings: Settings) -> list[ConnectionCheck]:
    """Contact all at the same time; returns results in the order broker, store, issuers, agents.

    Raises:
        ConfigError: an agent does not load (`check_start` finds it first).
    """
    asked = [
        _try("broker", "", lambda: reach_broker(settings)),
        _try("store", "", lambda: reach_store(settings)),
    ]
    asked += [_try("issuer", issuer.name, _issuer(settings, issuer)) for issuer in settings.all_issuers()]
    asked += [
        _try("agent", agent.name, _agent(agent.check, agent.close))
        for agent in load_agents(settings, _no_facts).values()
        if agent.check is not None
    ]
    return list(await asyncio.gather(*asked))


async def _try(kind: str, name: str, ask: Callable[[], Awaitable[str]]) -> ConnectionCheck:
    began = time.perf_counter()
    detail = remedy = ""
    ok = False
    try:
        async with asyncio.timeout(PATIENCE_S):
            detail, ok = await ask(), True
    except TimeoutError:
        detail, remedy = f"It did not answer within {PATIENCE_S:g} s.", "Start it, or check its address."
    except ConfigError as fault:
        detail = " ".join(fault.problems)
    except NarthexError as fault:
        detail, remedy = fault.message, fault.remedy
    return ConnectionCheck(kind, name, ok, detail, remedy, round((time.perf_counter() - began) * 1000, 1))


def _issuer(settings: Settings, issuer: IssuerSettings) -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        router, fetcher = make_issuer(settings, issuer, PrometheusMeter())
        try:
            await router.start()
            status = await router.check()
            while status.status != "healthy" and NOT_YET in status.detail:
                await asyncio.sleep(POLL_S)
                status = await router.check()
        finally:
            await router.stop()
            await fetcher.stop()
        if status.status != "healthy":
            raise DependencyError(
                "auth", f"{status.detail.rstrip('.')}.", "Start the issuer, or check its address."
            )
        return status.detail.partition(": ")[2]

    return ask


def _agent(
    check: Callable[[], Awaitable[None]], close: Callable[[], Awaitable[None]] | None
) -> Callable[[], Awaitable[str]]:
    async def ask() -> str:
        try:
            await check()
        finally:
            if close is not None:
                await close()
        return "answers"

    return ask


async def _no_facts() -> Mapping[str, object]:
    return {}
