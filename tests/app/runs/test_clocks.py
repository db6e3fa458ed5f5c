"""Wall clocks that are wrong, step or stand still: no run is lost, none is taken from a healthy owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec

from narthex.app.runs.lease import JUMP_S, Lease
from narthex.app.runs.observed import ObservedLeases
from narthex.ports.agents import Event, RunInput
from narthex.ports.runs import LeaseSeen
from tests.app.runs.rig import ALICE, QUICK, Rig, agent
from tests.timing import within

Items = AsyncIterator[Event | str]

DAY_S = 86_400.0
STEPS = (1.0, -1.0, 6.0, -6.0, 120.0, -120.0, 3_600.0, -3_600.0, DAY_S, -DAY_S)
HELD = (
    QUICK.lease_s * 3
)  # real seconds that a run continues after a step: every lease would have been decided by then


class WallClock:
    """A wall clock that a test sets."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s = ahead_s

    def __call__(self) -> float:
        """Seconds since the epoch on this clock."""
        return time.time() + self.ahead_s


async def patient(run: RunInput) -> Items:
    """Sends text until it is steered."""
    yield "before "
    talking = asyncio.ensure_future(anext(run.steer))
    while not talking.done():
        yield "."
        await asyncio.wait([talking], timeout=0.02)
    yield talking.result()


async def test_no_clock_ends_or_takes_a_run(rig: Rig) -> None:
    """A node for every skew, each with a run and with a question that another node's user answers; then every clock
    steps the other way. All runs continue where they began, and every answer reaches its agent.
    """

    async def asks(run: RunInput) -> Items:
        answer = await run.ask({"type": "object"}, "May I?")
        yield f"answered {answer['by']}"

    limits = msgspec.structs.replace(QUICK, run_deadline_s=60)
    clocks = [WallClock(skew_s) for skew_s in STEPS]
    nodes = [
        await rig.node(agent(patient), agent(asks, "asks"), name=f"n{n}", limits=limits, now=clock)
        for n, clock in enumerate(clocks)
    ]
    talks, questions = [], []
    for number, node in enumerate(nodes):
        user = msgspec.structs.replace(ALICE, subject=f"user-{number}")
        talks.append(await rig.say(node, await rig.thread(user), who=user))
        questions.append(await rig.say(node, await rig.thread(user), "@asks", who=user))
    for run in talks:
        await rig.until(run, lambda events: len(events) > 4)
    owners = {lease.run_id: lease.owner for lease in await rig.store.runs.leases()}
    assert set(owners) == {run.run_id for run in talks}
    for clock in clocks:
        clock.ahead_s *= -1
    await asyncio.sleep(HELD)  # the time that passes is the test's subject: three leases
    assert {lease.run_id: lease.owner for lease in await rig.store.runs.leases()} == owners
    for number, (talk, asked) in enumerate(zip(talks, questions, strict=True)):
        user = msgspec.structs.replace(ALICE, subject=f"user-{number}")
        await rig.ended(asked)
        [question] = await rig.store.runs.open_interrupts("acme", asked.thread_id)
        answer = {"by": user.subject}
        resumed = await nodes[number - 1].requests.resume(user, asked.run_id, question.interrupt_id, answer)
        resumed_run = await rig.store.runs.get("acme", resumed["run_id"])
        assert resumed_run is not None
        row, _ = await rig.ended(resumed_run)
        assert (row.state, row.text) == ("finished", f"answered {user.subject}")
        await next(node for node in nodes if talk.run_id in node._local_runs.executions).requests.steer(
            user, talk.run_id, "after"
        )
        row, _ = await rig.ended(talk)
        assert (row.state, row.attempt, row.text[-5:]) == ("finished", 1, "after")


async def test_a_dead_owners_reservation_is_lifted(rig: Rig) -> None:
    """The node with the waiting coroutine is gone: the answer's run ends without waiting for any clock."""

    async def asks(run: RunInput) -> Items:
        yield f"answered {await run.ask({'type': 'object'}, 'May I?')}"

    # A clock a day ahead would have reserved the answer for a day.
    dead = await rig.node(agent(asks), name="n1", now=WallClock(DAY_S))
    asked = await rig.say(dead, await rig.thread())
    await rig.ended(asked)
    for task in dead._loops._tasks.values():
        task.cancel()
    [question] = await rig.store.runs.open_interrupts("acme", asked.thread_id)
    other = await rig.node(agent(asks), name="n2", now=WallClock(DAY_S))
    resumed = await other.requests.resume(ALICE, asked.run_id, question.interrupt_id, {})
    run = await rig.store.runs.get("acme", resumed["run_id"])
    assert run is not None
    row, _ = await rig.ended(run)
    assert row.error == "owner_lost"


async def test_a_suspension_shows_in_the_wall_clock() -> None:
    """A monotonic clock that stood still shows nothing: until the next renewal nothing is published."""
    clock = WallClock()
    loop = asyncio.get_running_loop()
    lease = Lease(loop.time() + 60, clock)
    asked = lease.wall_ahead_s()
    await lease.hold()
    clock.ahead_s += JUMP_S * 2  # the machine slept: the wall clock advanced, the loop's clock did not
    holding = asyncio.ensure_future(lease.hold())
    lease.extend(loop.time() + 60, asked)  # the answer to a request from before the suspension proves nothing
    await asyncio.sleep(0)
    assert not holding.done()
    lease.extend(loop.time() + 60, lease.wall_ahead_s())
    async with asyncio.timeout(within(2)):
        await holding


def seen(
    run_id: str = "r",
    *,
    beat: int = 1,
    owner: str = "n1",
    lease_until: float = 9.0,
    restartable: bool = False,
) -> LeaseSeen:
    """A lease."""
    return LeaseSeen(
        tenant="a",
        run_id=run_id,
        state="running",
        owner=owner,
        attempt=1,
        beat=beat,
        lease_until=lease_until,
        agent="bot",
        restartable=restartable,
    )


def test_a_lease_lapses_after_it_was_seen_unchanged() -> None:
    """For the whole time; any change starts it again, also a change of the time only."""
    observed = ObservedLeases(8.0, 2.0)
    lapsed = [observed.lapsed([seen()], float(at), float(at), set()) for at in range(9)]
    assert [bool(found) for found in lapsed] == [False] * 8 + [True]
    assert observed.lapsed([seen(beat=2)], 9.0, 9.0, set()) == []
    assert observed.lapsed([seen(beat=2, lease_until=1.0)], 10.0, 10.0, set()) == []
    assert [observed.lapsed([seen(beat=2, lease_until=1.0)], at, at, set()) for at in (12.0, 14.0)] == [
        [],
        [],
    ]


def test_time_without_looking_does_not_count() -> None:
    """After an hour of suspension one observation counts as two seconds; a read that took long does not count at
    all.
    """
    observed = ObservedLeases(8.0, 2.0)
    observed.lapsed([seen()], 0.0, 0.0, set())
    assert observed.lapsed([seen()], 3_600.0, 3_607.0, set()) == []  # 2 s
    assert observed.lapsed([seen()], 3_608.0, 3_608.0, set()) == []  # 3 s
    for at in (3_610.0, 3_612.0):
        assert observed.lapsed([seen()], at, at, set()) == []
    assert observed.lapsed([seen()], 3_613.0, 3_613.0, set()) == [seen()]


def test_what_is_ours_or_nobodys() -> None:
    """A node never decides over its own leases; a run without an owner waits for none; a deleted one is forgotten."""
    observed = ObservedLeases(1.0, 9.0)
    free = seen("free", owner="")
    assert observed.lapsed([seen("ours"), seen("other"), free], 0.0, 0.0, {"ours"}) == [free]
    assert observed.lapsed([seen("ours"), seen("other")], 2.0, 2.0, {"ours"}) == [seen("other")]
    assert observed.lapsed([], 4.0, 4.0, set()) == []
    assert observed.lapsed([seen("other")], 6.0, 6.0, set()) == []


async def test_a_paused_observer_takes_nothing(fake_rig: Rig) -> None:
    """A node that stood still for longer than a lease finds the others' runs alive, because it observes again first."""
    owner = await fake_rig.node(agent(patient), name="n1")
    run = await fake_rig.say(owner, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) > 4)
    watcher = await fake_rig.node(agent(patient), name="n2")
    await asyncio.sleep(QUICK.poll_s * 2)  # the watcher has observed
    watcher._loops._tasks["take_over"].cancel()
    now = asyncio.get_running_loop().time()
    observed = watcher._loops._observed
    leases = await fake_rig.store.runs.leases()
    assert observed.lapsed(leases, now + 60, now + 60, set()) == []
    await owner.requests.steer(ALICE, run.run_id, "done")
    row, _ = await fake_rig.ended(run)
    assert (row.state, row.attempt) == ("finished", 1)


async def test_the_agent_sees_the_question_before_the_answer(rig: Rig) -> None:
    """The gateway's clock is behind the worker's by a day, then ahead of it: the conversation keeps its order."""
    heard: list[list[str]] = []

    async def listens(run: RunInput) -> Items:
        heard.append([message.content for message in run.messages])
        yield f"answer {len(heard)}"

    worker = WallClock()
    engine = await rig.node(agent(listens), now=worker)
    thread = await rig.thread()
    for number, ahead_s in enumerate((0.0, DAY_S, -DAY_S, 0.3), start=1):
        worker.ahead_s = ahead_s
        await rig.ended(await rig.say(engine, thread, f"question {number}"))
    assert heard[-1] == [
        *(f"{kind} {number}" for number in (1, 2, 3) for kind in ("question", "answer")),
        "question 4",
    ]
