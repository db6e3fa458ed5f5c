"""Wall clocks that are wrong and step by up to a day during runs and conversations: nothing is lost, no order changes.

Three gateways on NATS and PostgreSQL, each under libfaketime with its own clock; real time passes. The history checker
judges what clients received. See docs/guarantees.md, "Clocks".
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.acceptance.fleet import Fleet, fleet
from tests.acceptance.program import Program
from tests.campaigns import follower
from tests.campaigns.caller import Caller, calling
from tests.campaigns.clock import WallClock
from tests.campaigns.follower import SERVED
from tests.history import Bounds, Recorder, check, report, summary
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(300)]

DAY_S: Final = 86_400.0
STEPS: Final = (1.0, 6.0, 60.0, 120.0, 3_600.0, DAY_S)
AGENTS: Final = tuple(
    part for name in ("parrot", "steady", "waiting") for part in ("--agent", f"tests.campaigns.agents:{name}")
)
RUN_S: Final = 12  # a lease is 8 s: a clock that decided over it would have done so by then
TALKS: Final = 6


class Sides(NamedTuple):
    """Three gateways, their clocks, and the recorded history."""

    gateways: list[Program]
    clocks: list[WallClock]
    recorder: Recorder
    chance: random.Random

    def step(self, number: int) -> None:
        """Set one gateway's clock to another of the skews."""
        self.clocks[number].set(self.chance.choice(STEPS) * self.chance.choice((1, -1)))

    def caller(self, number: int, user: str) -> contextlib.AbstractAsyncContextManager[Caller]:
        """A connection of a user at a gateway; its token outlives every skew, because tokens end by the wall clock."""
        secret = follower.token(user, ttl_s=9 * DAY_S)
        name = f"{user}-{number}-{uuid.uuid4().hex[:4]}"
        return calling(self.gateways[number].port, secret, self.recorder, name, user)


@contextlib.asynccontextmanager
async def sides(directory: Path, seed: int) -> AsyncIterator[Sides]:
    """Start everything, with every clock wrong from the start."""
    chance = random.Random(seed)
    async with fleet(directory, **SERVED, CAMPAIGN_NOTES=str(directory / "notes")) as built:
        clocks = [WallClock(directory / f"clock{n}") for n in range(3)]
        made = Sides([], clocks, Recorder(), chance)
        for number in range(3):
            made.step(number)
        made.gateways.extend(await _gateways(built, clocks))
        yield made


async def _gateways(built: Fleet, clocks: list[WallClock]) -> list[Program]:
    return [await built.gateway(*AGENTS, **clock.env) for clock in clocks]


async def long_run(all_: Sides, number: int, round_: int) -> dict[str, Any]:
    """A run that outlasts a lease, started at one gateway and followed at the next; returns its terminal event."""
    user = f"runner-{number}-{round_}"
    text = f"@steady rate=5 seconds={RUN_S}"
    async with all_.caller(number, user) as here, all_.caller((number + 1) % 3, user) as there:
        started = await here.patient_rpc("run.start", text=text, client_message_id=uuid.uuid4().hex)
        await there.command("subscribe", channel=started["channel"], recover=True, offset=0, epoch="")
        async with asyncio.timeout(RUN_S + within(20)):
            await ended(there, started["run_id"])
        return await here.patient_rpc("run.get", run_id=started["run_id"])


async def ended(caller: Caller, run_id: str) -> None:
    """Wait until a run's terminal event arrived, live or recovered."""
    while not any(
        event.get("runId") == run_id and event.get("type") in ("RUN_FINISHED", "RUN_ERROR")
        for event in events(caller)
    ):
        caller._pushed.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):  # recovered events came in a reply, which is not a push
                await caller._pushed.wait()


def events(caller: Caller) -> list[dict[str, Any]]:
    """The events pushed to a caller."""
    found = [push.get("push", {}).get("pub", {}).get("data") for push in caller.pushes]
    return [event for event in found if isinstance(event, dict)]


async def talk(all_: Sides, round_: int) -> None:
    """One conversation through all gateways, with a clock that steps before each message; then three messages at
    once.
    """
    user = f"talker-{round_}"
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(all_.caller(number, user)) for number in range(3)]
        thread = (await callers[0].patient_rpc("thread.create"))["thread_id"]
        await callers[0].command("subscribe", channel=f"thread:{thread}", recover=True, offset=0, epoch="")
        for number in range(TALKS):
            all_.step(number % 3)
            started = await callers[number % 3].patient_rpc(
                "run.start", thread_id=thread, text=f"{number}", client_message_id=f"{user}-{number}"
            )
            async with asyncio.timeout(within(20)):
                await ended(callers[0], started["run_id"])
        # A start joins the queue when it is acknowledged: so all three are acknowledged while another run goes on.
        ahead = await callers[0].patient_rpc(
            "run.start", thread_id=thread, text="@waiting", client_message_id=f"{user}-ahead"
        )
        at_once = await asyncio.gather(
            *(
                caller.patient_rpc(
                    "run.start",
                    thread_id=thread,
                    text=f"at once {n}",
                    client_message_id=f"{user}-at-once-{n}",
                )
                for n, caller in enumerate(callers)
            )
        )
        assert all(started["queued"] for started in at_once)
        await callers[0].patient_rpc("run.cancel", run_id=ahead["run_id"])
        async with asyncio.timeout(within(20)):
            for started in at_once:
                await ended(callers[0], started["run_id"])
        queue_order(events(callers[0]), {one["message_id"]: one["run_id"] for one in at_once})
        for caller in callers:
            shown, pages = await read_twice(caller, thread)
            roles = [message["role"] for message in shown]
            assert roles[: 2 * TALKS] == ["user", "assistant"] * TALKS, (
                "the answer stands before its question"
            )
            assert pages == [message["message_id"] for message in shown]


async def read_twice(caller: Caller, thread: str) -> tuple[list[dict[str, Any]], list[str]]:
    """A thread's messages at once, and their ids in pages, of a moment in which none was added: an answer becomes a
    message a moment after its run has ended.
    """
    shown: list[dict[str, Any]] = []
    while True:
        before, pages = shown, await paged(caller, thread)
        shown = (await caller.patient_rpc("thread.get", thread_id=thread, limit=200))["messages"]
        if before == shown:
            return shown, pages


async def paged(caller: Caller, thread: str) -> list[str]:
    """The ids of a thread's messages, read in pages of four."""
    found: list[str] = []
    place: dict[str, Any] = {}
    while page := (await caller.patient_rpc("thread.get", thread_id=thread, limit=4, **place))["messages"]:
        found = [message["message_id"] for message in page] + found
        place = {"before": page[0]["created_at"], "before_id": page[0]["message_id"]}
    return found


def queue_order(shown: list[dict[str, Any]], runs: dict[str, str]) -> None:
    """Runs of one thread start in the order in which their messages are stored in the log."""
    said = [runs[event["messageId"]] for event in shown if event.get("messageId") in runs and is_start(event)]
    begun = [event["runId"] for event in shown if event["type"] == "RUN_STARTED" and event["runId"] in said]
    assert begun == said


def is_start(event: dict[str, Any]) -> bool:
    """Whether the event begins a message."""
    return bool(event["type"] == "TEXT_MESSAGE_START")


async def campaign(directory: Path, *, rounds: int, seed: int) -> None:
    """Several rounds."""
    async with sides(directory, seed) as all_:
        for round_ in range(rounds):
            runs, _ = await asyncio.gather(
                asyncio.gather(*(long_run(all_, number, round_) for number in range(3))), talk(all_, round_)
            )
            for run in runs:
                assert (run["state"], run["attempt"]) == ("finished", 1), run
        findings = check(all_.recorder.history(), Bounds(stale_s=0.0, run_end_s=0.0))
        counts = summary(all_.recorder.history())
        print(f"\n{rounds} rounds of moving clocks: {counts}")
        assert not findings, report(findings)
        assert counts["threadread"] >= 3 * rounds
        assert counts["runstarted"] >= (3 + TALKS + 3) * rounds


async def test_clocks_step_while_runs_go_on(tmp_path: Path) -> None:
    """The short variant."""
    await campaign(tmp_path, rounds=1, seed=3)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_clocks_step_for_long(tmp_path: Path) -> None:
    """Twenty rounds, over every skew many times."""
    await campaign(tmp_path, rounds=20, seed=4)
