"""Each scenario fails on at least one lie, and its failure names the lie; without a lie it passes on the same server.

A scenario that no lie fails tests nothing. The full table takes minutes (`-m soak`); CI plays a part of it and
checks that the table has no empty row and no empty column.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, TypeVar

import pytest

from narthex.e2e.results import Result, Status
from narthex.e2e.runner import Runner
from narthex.e2e.scenario import Scenario, every
from narthex.e2e.staging import Staging, staging
from narthex.e2e.system_under_test import GatewayHandle, SystemUnderTest
from tests.e2e.lies.lies import LIES
from tests.e2e.lies.server import Lie, LyingServer

T = TypeVar("T")
AT_A_TIME: Final = 4
QUICK_PING: Final = {"NARTHEX_PING_INTERVAL_S": "4", "NARTHEX_PONG_TIMEOUT_S": "3"}
SCENARIOS: Final = {found.name: found for found in every() if found.serves}
IN_CI: Final = {
    "fragments_are_cut": "websocket.fragments_are_put_together",
    "first_commands_are_refused": "startup_resilience.the_first_frame_can_be_handled_at_once",
    "numbers_stand_still": "integration.the_numbers_move",
    "config_says_constants": "startup.settings_are_announced",
    "refresh_says_a_constant": "auth.a_refresh_keeps_the_line",
    "tool_calls_have_no_arguments": "lifecycle_events.tool_calls_have_arguments_and_results",
    "removal_is_said_only": "coordination.a_removed_member_loses_the_channel_at_once",
    "recovery_has_a_gap": "failure_recovery.five_drops_in_one_run",
    "bad_tokens_are_admitted": "smoke.bad_tokens_are_refused",
    "every_wrong_key_meets_an_outage": "smoke.a_wrong_key_is_nobodys",
    "foreign_channels_answer_differently": "coordination.foreign_tenants_are_as_absent_as_nothing",
    "one_socket_sees_another_text": "response_streaming.a_reader_that_pauses_still_gets_the_same_text",
}
"""Lies that the suite once did not notice, each with the scenario that was too weak."""


class Pair(NamedTuple):
    """A scenario that is played against a lie; `says` must match its failure."""

    lie: str
    scenario: str
    says: str


def pairs(names: Iterable[str], *, real: bool) -> list[Pair]:
    """All pairs of some lies."""
    return [
        Pair(name, scenario, says)
        for name in names
        if LIES[name].real is real
        for scenario, says in LIES[name].noticed_by.items()
    ]


def test_no_row_and_no_column_of_the_table_is_empty() -> None:
    """Every scenario has a lie that it must notice, and every lie has a scenario that exists."""
    noticed = {scenario for told in LIES.values() for scenario in told.noticed_by}
    assert not set(SCENARIOS) - noticed, "scenarios that no lie fails"
    assert not noticed - set(SCENARIOS), "lies about scenarios that do not exist"
    assert all(told.noticed_by for told in LIES.values()), "lies that no scenario must notice"


async def play(made: Staging, lie: Lie, scenario: Scenario) -> Result:
    """One scenario in front of one lying server (and one in front of each gateway)."""
    true = made.system_under_test()
    await true.open()
    lie.good = await true.token("known-to-the-lie")
    await true.close()
    async with LyingServer(_port(true.base_url), lie) as front:
        fronts = [LyingServer(_port(gateway.url), lie) for gateway in true.gateways]
        for each in fronts:
            await each.__aenter__()
        gateways = tuple(
            GatewayHandle(url=each.url, pid=gateway.pid, restart=gateway.restart)
            for each, gateway in zip(fronts, true.gateways, strict=True)
        )
        system = SystemUnderTest(
            front.url, true.environment, true.proof, gateways=gateways, issuer_url=true.issuer_url
        )
        await system.open()
        try:
            return (await Runner(system).run([scenario]))[0]
        finally:
            await system.tidy()
            await system.close()
            for each in fronts:
                await each.__aexit__()


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


async def judge(made: Staging, chosen: Sequence[Pair], *, at_a_time: int = AT_A_TIME) -> list[str]:
    """Play all pairs; returns a sentence for each that was not noticed as required."""

    async def one(pair: Pair) -> str:
        result = await play(made, LIES[pair.lie].make(), SCENARIOS[pair.scenario])
        print(f"{pair.scenario:75} x {pair.lie:40} {result.status}: {result.detail[:150]}", flush=True)
        if result.status is not Status.FAILED:
            return f"{pair.scenario} does not notice {pair.lie}"
        named = re.search(pair.says, result.detail)
        return "" if named else f"{pair.scenario} notices {pair.lie}, but says: {result.detail[:300]}"

    return await _played(chosen, one, lambda pair: SCENARIOS[pair.scenario].alone, at_a_time)


async def truths(made: Staging, chosen: Sequence[Pair], *, at_a_time: int = AT_A_TIME) -> list[str]:
    """Play the scenarios through a server without a lie; returns a sentence for each that does not pass."""

    async def one(name: str) -> str:
        result = await play(made, Lie(), SCENARIOS[name])
        return "" if result.status is Status.PASSED else f"{name}: {result.status} {result.detail[:300]}"

    names = sorted({pair.scenario for pair in chosen})
    return await _played(names, one, lambda name: SCENARIOS[name].alone, at_a_time)


async def _played(
    chosen: Sequence[T], one: Callable[[T], Awaitable[str]], alone: Callable[[T], bool], at_a_time: int
) -> list[str]:
    """Several at a time, and those that must run alone one by one; returns their sentences."""
    gate = asyncio.Semaphore(at_a_time)

    async def gated(item: T) -> str:
        async with gate:
            return await one(item)

    said = list(await asyncio.gather(*(gated(item) for item in chosen if not alone(item))))
    said += [await one(item) for item in chosen if alone(item)]
    return [sentence for sentence in said if sentence]


def nothing(said: Sequence[str]) -> None:
    """Fail with every sentence."""
    if said:
        pytest.fail("\n".join(said), pytrace=False)


@pytest.mark.timeout(240)
async def test_lies_that_once_passed_are_noticed() -> None:
    """The suite notices by name the lies that it once missed, and passes without a lie."""
    chosen = [pair for pair in pairs(IN_CI, real=False) if IN_CI[pair.lie] == pair.scenario]
    async with staging("staging", real=False, patch=QUICK_PING) as made:
        nothing(await truths(made, chosen))
        nothing(await judge(made, chosen))


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_every_scenario_notices_its_lies() -> None:
    """The whole table against one gateway: each lie fails each of its scenarios, and all pass without a lie."""
    chosen = pairs(LIES, real=False)
    async with staging("staging", real=False, patch=QUICK_PING) as made:
        nothing(await truths(made, chosen))
        nothing(await judge(made, chosen))


@pytest.mark.soak
@pytest.mark.timeout(900)
async def test_scenarios_of_two_gateways_notice_their_lies() -> None:
    """The lies that need two gateways, real engines and an issuer, one at a time because some kill a gateway."""
    chosen = pairs(LIES, real=True)
    async with staging("staging", real=True) as made:
        nothing(await truths(made, chosen, at_a_time=1))
        nothing(await judge(made, chosen, at_a_time=1))
