"""The runner: its selection, its conditions for a pass, and the scenarios that it does not run."""

from __future__ import annotations

import asyncio

import pytest

from narthex.e2e.results import Result, Status
from narthex.e2e.runner import Runner, select
from narthex.e2e.scenario import Body, Category, Scenario, every
from narthex.e2e.scenarios import OTHERS, STAGING
from narthex.e2e.skipping import SkipScenario
from narthex.e2e.skips import ALLOWED
from narthex.e2e.system_under_test import RunnerProof, SystemUnderTest
from narthex.e2e.traffic import current
from narthex.errors import ClientError

KEY = "the-proof-that-nobody-may-read"


async def talks(_: SystemUnderTest) -> None:
    """Exchanges bytes with the server."""
    current().out(1)
    current().back(1, "http://target")


async def talks_to_nobody(_: SystemUnderTest) -> None:
    """Asserts on a literal."""


async def fails(_: SystemUnderTest) -> None:
    """Exchanges bytes and fails, with the credential in its text."""
    current().back(1, "http://target")
    raise AssertionError(f"the server said {KEY}")


async def skips(_: SystemUnderTest) -> None:
    """Skips."""
    raise SkipScenario("no such thing here")


async def hangs(_: SystemUnderTest) -> None:
    """Never ends."""
    current().back(1, "http://target")
    await asyncio.Event().wait()


def made(
    name: str,
    body: Body,
    category: Category = Category.SMOKE,
    *,
    timeout_s: float = 5,
    always: bool = False,
    alone: bool = False,
) -> Scenario:
    return Scenario(
        f"group.{name}", category, "group", name, body, timeout_s=timeout_s, always=always, alone=alone
    )


def world() -> SystemUnderTest:
    return SystemUnderTest("http://target", "staging", RunnerProof(key=KEY))


async def one(scenario: Scenario) -> Result:
    (result,) = await Runner(world()).run([scenario])
    return result


async def test_a_pass_counts_its_bytes() -> None:
    """And names the systems that it exchanged bytes with."""
    result = await one(made("a", talks))
    assert (result.status, result.sent, result.received) == (Status.PASSED, 1, 1)
    assert result.contacted == ["http://target"]


async def test_whoever_talked_to_nobody_has_failed() -> None:
    """Whatever it asserted; but `unit` tests no server."""
    result = await one(made("a", talks_to_nobody))
    assert result.status is Status.FAILED
    assert "no byte" in result.detail
    assert (await one(made("a", talks_to_nobody, Category.UNIT))).status is Status.PASSED


async def test_a_failure_names_its_place_and_no_proof() -> None:
    """No report has the key, even when the server repeats it."""
    result = await one(made("a", fails))
    assert result.status is Status.FAILED
    assert KEY not in result.detail
    assert "[proof]" in result.detail
    assert "test_runner.py" in result.detail


async def test_what_the_server_said_can_be_printed() -> None:
    """JSON may contain half a surrogate, which neither a terminal nor a file accepts."""

    async def hears(_: SystemUnderTest) -> None:
        current().back(1, "http://target")
        raise AssertionError("the server said \ud800")

    result = await one(made("hears", hears))
    assert result.detail.encode().startswith(b"the server said \\ud800")


async def test_an_unlisted_skip_has_failed() -> None:
    """A listed one is skipped with its reason, where its condition holds."""
    assert (await one(made("a", skips))).status is Status.FAILED
    listed = Scenario(
        "startup_resilience.a_killed_gateway_loses_nothing", Category.E2E, "startup_resilience", "", skips
    )
    result = await one(listed)
    assert result.status is Status.SKIPPED
    assert "no such thing here" in result.detail
    assert "it kills a gateway" in result.detail
    keyed = Scenario("coordination.the_key_itself_is_a_way_in", Category.E2E, "coordination", "", skips)
    assert (await one(keyed)).status is Status.FAILED, "this run has a key, so there is no leave to skip"


async def test_a_scenario_has_a_deadline() -> None:
    """And is ended at it."""
    result = await one(made("a", hangs, timeout_s=0.05))
    assert result.status is Status.FAILED
    assert "not finished within" in result.detail


async def test_a_category_whose_dependency_failed_is_not_run() -> None:
    """Nor one that depends on that one; independent ones are."""
    chosen = [
        made("smoke", talks),
        made("websocket", fails, Category.WEBSOCKET),
        made("auth", talks, Category.AUTH),
        made("chat", talks, Category.CHAT),
        made("integration", talks, Category.INTEGRATION),
    ]
    results = await Runner(world()).run(chosen)
    assert [result.status for result in results] == [
        Status.PASSED,
        Status.FAILED,
        Status.PASSED,
        Status.NOT_RUN,
        Status.NOT_RUN,
    ]
    assert "websocket failed" in results[3].detail


async def test_fail_fast_begins_nothing_more() -> None:
    """Scenarios that were not started are reported as such."""
    results = await Runner(world(), fail_fast=True).run([made("a", fails), made("b", talks)])
    assert [result.status for result in results] == [Status.FAILED, Status.NOT_RUN]
    assert "group.a failed" in results[1].detail


async def test_parallel_keeps_the_order_and_leaves_the_lonely_alone() -> None:
    """Two meet at a barrier; the third, which must run alone, sees no other."""
    barrier = asyncio.Barrier(2)
    inside: set[str] = set()

    async def meets(_: SystemUnderTest) -> None:
        current().back(1, "http://target")
        inside.add("meets")
        await barrier.wait()
        inside.discard("meets")

    async def lonely(_: SystemUnderTest) -> None:
        current().back(1, "http://target")
        assert not inside

    chosen = [made("lonely", lonely, alone=True), made("x", meets), made("y", meets)]
    results = await Runner(world(), parallel=4).run(chosen)
    assert [result.name for result in results] == ["group.lonely", "group.x", "group.y"]
    assert {result.status for result in results} == {Status.PASSED}


def test_the_negatives_are_part_of_every_run() -> None:
    """Whatever was selected, except for `unit`, which has no server."""
    negatives = {found.name for found in every() if found.always}
    assert len(negatives) == 4
    chosen = select(every(), [Category.E2E], pattern="event_flow")
    assert {found.name for found in chosen} == {"websocket_events.event_flow"} | negatives
    assert chosen[0].category is Category.SMOKE
    assert [found.name for found in select(every(), [Category.UNIT])] == ["unit.the_core"]


def test_selecting_by_pattern_and_resuming() -> None:
    """A part of a name or title, a glob, a scenario to resume from; an empty selection is an error."""
    assert len(select(every(), [Category.E2E], pattern="critical_path.*")) == 8 + 4
    all_of_it = [found.name for found in select(every(), [Category.E2E])]
    rest = [found.name for found in select(every(), [Category.E2E], resume_from="message_flow")]
    assert rest[4:] == all_of_it[all_of_it.index("message_flow.message_flow") :]
    with pytest.raises(ClientError):
        select(every(), [Category.E2E], pattern="no such scenario")
    with pytest.raises(ClientError):
        select(every(), [Category.E2E], resume_from="no-such-scenario")


def test_the_staging_suite_is_as_large_as_promised() -> None:
    """Ten files, at least 58 tests, the seven of the incident among them; every category has scenarios."""
    suite = [found for found in every() if found.category is Category.E2E]
    assert {found.group for found in suite} == set(STAGING)
    assert len(STAGING) == 10
    assert len(suite) >= 58
    assert {found.name.rpartition(".")[2] for found in suite if found.incident} == {
        "event_flow",
        "seven_concurrent_sockets",
        "message_flow",
        "error_handling_flow",
        "pipeline_execution",
        "lifecycle_monitoring",
        "pipeline_error_handling",
    }
    assert {found.category for found in every()} == set(Category)
    assert {found.group for found in every()} == {*STAGING, *OTHERS}


def test_the_allow_list_names_scenarios_that_exist() -> None:
    """An entry for a scenario of another name would let the next skip through."""
    assert {entry.name for entry in ALLOWED} <= {found.name for found in every()}
    assert all(entry.reason for entry in ALLOWED)
