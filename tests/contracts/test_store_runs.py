"""The contract of `ports/runs.py`, run by every engine."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from narthex.errors import Bug, ClientError
from narthex.ports.broker import Position
from narthex.ports.runs import MAX_REPORT, Queue
from narthex.ports.store import Store
from tests.contracts.rows import AGENTS, finish, ids, interrupt, message, run, start, thread
from tests.timing import within


class TestQueue:
    """`start`, `claim`, `queue_position`."""

    async def test_start_is_idempotent(self, store: Store) -> None:
        """One client message id gives one run, also for 30 concurrent requests."""
        await store.threads.create(thread("t1"))
        outcomes = await asyncio.gather(
            *(
                store.runs.start(msgspec.structs.replace(run(f"r{n}"), client_message_id="c"), queue_limit=5)
                for n in range(30)
            )
        )
        assert sum(created for _, created in outcomes) == 1
        assert len({kept.run_id for kept, _ in outcomes}) == 1
        assert await store.runs.by_client_message("a", "ann", "c") == outcomes[0][0]
        assert await store.runs.by_client_message("a", "bob", "c") is None
        assert (
            await store.runs.start(
                msgspec.structs.replace(run("x", user="bob"), client_message_id="c"), queue_limit=5
            )
        )[1]

    async def test_start_needs_the_thread(self, store: Store) -> None:
        """One deleted since the caller's read, one that never existed, and another tenant's."""
        await store.threads.create(thread("t1"))
        assert (await store.runs.start(run("r1"), queue_limit=5))[1]
        for entry in (run("r2", "t9"), run("r3", tenant="b")):
            with pytest.raises(ClientError) as refused:
                await store.runs.start(entry, queue_limit=5)
            assert (refused.value.code, refused.value.number) == ("thread_not_found", 404)
        await store.runs.request_cancel("a", "r1", "ann", 5.0)
        assert await store.threads.delete("a", "t1") == "deleted"
        outcomes = await asyncio.gather(
            store.runs.start(run("r4"), queue_limit=5),
            store.runs.start(run("r1"), queue_limit=5),
            return_exceptions=True,
        )
        assert all(isinstance(outcome, ClientError) for outcome in outcomes)
        assert await store.runs.active_in_thread("a", "t1") == []

    async def test_start_keeps_every_field(self, store: Store) -> None:
        """A started run is read back with all its fields."""
        await store.threads.create(thread("t1"))
        whole = msgspec.structs.replace(
            run("r1"),
            parent_run_id="r0",
            concurrent_limit=7,
            identity='{"a":1}',
            traffic="e2e",
            restartable=True,
        )
        assert await store.runs.start(whole, queue_limit=1) == (whole, True)
        assert await store.runs.get("a", "r1") == whole
        assert await store.runs.get("b", "r1") is None

    async def test_queue_limit(self, store: Store) -> None:
        """A thread's queue is bounded, also against 20 at once; other threads are not affected."""
        for name in ("t1", "t2"):
            await store.threads.create(thread(name))
        outcomes = await asyncio.gather(
            *(store.runs.start(run(f"r{n}"), queue_limit=3) for n in range(20)), return_exceptions=True
        )
        full = [outcome for outcome in outcomes if isinstance(outcome, ClientError)]
        assert len(full) == 17
        assert {outcome.code for outcome in full} == {"queue_full"}
        assert (await store.runs.start(run("other", "t2"), queue_limit=3))[1]

    async def test_no_run_goes_on_in_a_deleted_thread(self, store: Store) -> None:
        """Started and deleted at once: either the run exists and the thread stays, or neither exists."""
        for turn in range(20):
            name = f"t{turn}"
            await store.threads.create(thread(name))
            started, deleted = await asyncio.gather(
                store.runs.start(run(f"r{turn}", name, user=name), queue_limit=3),
                store.threads.delete("a", name),
                return_exceptions=True,
            )
            assert deleted == ("deleted" if isinstance(started, ClientError) else "busy")
            assert (await store.runs.get("a", f"r{turn}") is None) == (deleted == "deleted")

    async def test_a_queue_of_none(self, store: Store) -> None:
        """With a limit of 0 no run waits, and an idle thread still accepts a run."""
        await store.threads.create(thread("t1"))
        await store.runs.start(run("r1"), queue_limit=0)
        await store.runs.claim("n1", 10.0, 5.0, 1, AGENTS)
        with pytest.raises(ClientError, match="runs waiting"):
            await store.runs.start(run("r2"), queue_limit=0)

    async def test_claim_takes_the_oldest_of_each_idle_thread(self, store: Store) -> None:
        """One running run per thread; the next one follows when it has finished."""
        one = msgspec.structs.replace(run("r1", at=1.0), concurrent_limit=10)
        two = msgspec.structs.replace(run("r2", at=2.0), concurrent_limit=10)
        other = msgspec.structs.replace(run("r3", "t2", at=3.0), concurrent_limit=10)
        await start(store, one, two, other)
        claimed = await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS)
        assert ids(claimed) == ["r1", "r3"]
        assert {(r.state, r.owner, r.lease_until, r.attempt) for r in claimed} == {("running", "n1", 15.0, 1)}
        assert await store.runs.claim("n2", 10.0, 5.0, 10, AGENTS) == []
        assert await finish(store, claimed[0])
        assert ids(await store.runs.claim("n2", 10.0, 5.0, 10, AGENTS)) == ["r2"]

    async def test_the_queue_is_as_old_as_its_oldest_claimable_run(self, store: Store) -> None:
        """A run that waits behind another one of its thread, or of its user's quota, is queued but not stuck."""
        assert await store.runs.queue() == Queue()
        mine = [
            msgspec.structs.replace(run(f"r{n}", "t1", at=float(n + 1)), concurrent_limit=1) for n in range(2)
        ]
        quota = msgspec.structs.replace(run("r3", "t3", at=3.0), concurrent_limit=1)
        await start(store, *mine, quota, run("bobs", "tb", user="bob", at=9.0))
        heads = {"concierge": "r0"}
        assert await store.runs.queue() == Queue(length=4, oldest_at=1.0, heads=heads)
        [claimed, _] = await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS)
        assert await store.runs.queue() == Queue(length=2)
        await finish(store, claimed)
        heads = {"concierge": "r1"}
        assert await store.runs.queue() == Queue(length=2, oldest_at=2.0, heads=heads)

    async def test_claim_takes_runs_of_the_callers_agents_only(self, store: Store) -> None:
        """Other runs stay queued: neither their number nor their place in a user's quota keeps the caller's waiting,
        but a thread keeps its order.
        """
        foreign = [
            msgspec.structs.replace(run(f"f{n}", f"t{n}", at=float(n)), agent="other", concurrent_limit=1)
            for n in range(5)
        ]
        mine = msgspec.structs.replace(run("mine", "t9", at=9.0), concurrent_limit=1)
        behind = run("behind", "t0", user="bob", at=10.0)
        await start(store, *foreign, mine, behind)
        queue = await store.runs.queue()
        assert (queue.length, queue.oldest_at) == (7, 0.0)
        assert queue.heads == {"other": "f0"}  # which is first in the user's quota for nodes with both agents
        assert ids(await store.runs.claim("n1", 10.0, 5.0, 2, AGENTS)) == ["mine"]
        assert await store.runs.claim("n1", 10.0, 5.0, 2, ()) == []
        assert (
            await store.runs.claim("n2", 10.0, 5.0, 9, ("else", "other", "no more")) == []
        )  # one runs already
        assert await finish(store, msgspec.structs.replace(mine, owner="n1", attempt=1))
        [head] = await store.runs.claim("n2", 10.0, 5.0, 9, ("else", "other", "no more"))
        assert (head.run_id, head.agent) == ("f0", "other")
        await finish(store, head)
        assert ids(await store.runs.claim("n1", 10.0, 5.0, 2, AGENTS)) == ["behind"]

    async def test_a_run_is_given_back_as_if_it_had_not_been_claimed(self, store: Store) -> None:
        """It is queued at its old place, before later runs of its thread, and begins with the first attempt."""
        await start(store, run("r1"), run("r2", at=2.0))
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 9, AGENTS)
        assert await store.runs.started(claimed, Position(7, "e"), 11.0)
        assert await store.runs.give_back(msgspec.structs.replace(claimed, owner="n2"), 12.0) is None
        assert await store.runs.give_back(msgspec.structs.replace(claimed, attempt=2), 12.0) is None
        kept = await store.runs.give_back(claimed, 12.0)
        assert await store.runs.give_back(claimed, 12.0) is None
        assert kept is not None
        assert await store.runs.get("a", "r1") == kept
        assert (kept.finished_at, kept.unclosed) == (0.0, False)
        assert (kept.state, kept.owner, kept.attempt, kept.started_at) == ("queued", "", 0, 0.0)
        assert not await finish(store, claimed)
        [again] = await store.runs.claim("n2", 10.0, 5.0, 9, AGENTS)
        assert (again.run_id, again.attempt, again.owner) == ("r1", 1, "n2")
        [lease] = await store.runs.leases()
        [over] = await store.runs.take_over("n3", [lease], 20.0, 5.0)
        assert await store.runs.started(over, Position(7, "e"), 21.0)
        kept = await store.runs.give_back(over, 22.0)
        assert kept is not None
        assert (kept.attempt, kept.started_at) == (1, 21.0)  # what an earlier owner did is not known

    async def test_a_cancelled_run_that_is_given_back_is_over(self, store: Store) -> None:
        """It waits for no claim: its state is what a cancel in the queue leaves."""
        await start(store, run("r1"), run("r2", at=2.0))
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 9, AGENTS)
        await store.runs.request_cancel("a", "r1", "bob", 11.0)
        kept = await store.runs.give_back(claimed, 12.0)
        assert kept is not None
        assert (kept.state, kept.unclosed, kept.owner, kept.finished_at) == ("cancelled", True, "", 12.0)
        assert kept.cancel_requested_by == "bob"
        assert await store.runs.unclosed(9) == [kept]
        assert ids(await store.runs.claim("n2", 13.0, 5.0, 9, AGENTS)) == ["r2"]

    async def test_claim_honours_the_users_limit(self, store: Store) -> None:
        """A user with two concurrent runs waits with the third; another user's run goes ahead."""
        mine = [
            msgspec.structs.replace(run(f"r{n}", f"t{n}", at=float(n)), concurrent_limit=2) for n in range(4)
        ]
        await start(store, *mine, run("bobs", "tb", user="bob", at=9.0))
        claimed = await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS)
        assert ids(claimed) == ["r0", "r1", "bobs"]
        assert await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS) == []
        await finish(store, claimed[0])
        assert ids(await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS)) == ["r2"]

    async def test_claim_is_fair_between_tenants(self, store: Store) -> None:
        """A tenant with a long queue does not starve the others, within a call and across calls."""
        await start(
            store,
            *(run(f"a{n}", f"ta{n}", user=f"u{n}", at=float(n)) for n in range(6)),
            *(run(f"b{n}", f"tb{n}", tenant="b", user=f"u{n}", at=100.0 + n) for n in range(2)),
            run("c0", "tc", tenant="c", at=200.0),
        )
        first = ids(await store.runs.claim("n1", 300.0, 5.0, 4, AGENTS))
        assert first == ["a0", "b0", "c0", "a1"]
        second = ids(await store.runs.claim("n1", 300.0, 5.0, 10, AGENTS))
        assert second == ["b1", "a2", "a3", "a4", "a5"]

    async def test_parallel_claims_never_share(self, store: Store) -> None:
        """20 claims at once over 30 runs: each run gets one owner, quotas hold."""
        await start(store, *(run(f"r{n}", f"t{n}", user=f"u{n % 15}", at=float(n)) for n in range(30)))
        claims = await asyncio.gather(*(store.runs.claim(f"n{n}", 50.0, 5.0, 3, AGENTS) for n in range(20)))
        claimed = [entry.run_id for part in claims for entry in part]
        assert len(claimed) == len(set(claimed)) == 15

    async def test_runs_of_a_thread_go_in_the_order_of_the_log(self, store: Store) -> None:
        """Not by their times, nor by the order of storing; a resumed run follows the waiting ones."""
        await store.threads.create(thread("t1"))
        for name, at, offset in (("r1", 900.0, 3), ("r2", 5.0, 6), ("r3", 400.0, 9)):
            said = message(f"m-{name}", at=at)
            await store.threads.post("a", said, Position(offset - 1, "e"))
            await store.threads.posted("a", "t1", said.message_id, Position(offset, "e"), offset + 2)
        await start(store, *(run(name, at=at) for name, at in (("r3", 400.0), ("r1", 900.0), ("r2", 5.0))))
        assert ids(await store.runs.active_in_thread("a", "t1")) == ["r1", "r2", "r3"]
        assert ids(await store.runs.list_in_thread("a", "t1", 2)) == ["r3", "r2"]
        assert [await store.runs.queue_position("a", name) for name in ("r1", "r2", "r3")] == [0, 1, 2]
        await store.runs.open_interrupt(interrupt("i1"))
        resume = msgspec.structs.replace(run("resumed", at=0.5), message_id="m-r1")
        assert await store.runs.answer_interrupt("a", "i1", by="u", payload="1", resume=resume)
        order: list[str] = []
        while claimed := await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS):
            order += ids(claimed)
            await finish(store, claimed[0])
        assert order == ["r1", "r2", "r3", "resumed"]

    async def test_runs_of_several_threads_go_in_the_order_of_their_start(self, store: Store) -> None:
        """A node whose clock is a day behind does not overtake other runs."""
        moments = (500.0, 90_000.0, -86_400.0, 3.0)
        for number, at in enumerate(moments):
            await start(store, run(f"r{number}", f"t{number}", at=at))
        assert [await store.runs.queue_position("a", f"r{n}") for n in range(4)] == [0, 0, 0, 0]
        order: list[str] = []
        while claimed := await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS):
            order += ids(claimed)
            assert await store.runs.queue_position("a", "r3") == max(0, 3 - len(order))
            await finish(store, claimed[0])
        assert order == ["r0", "r1", "r2", "r3"]

    async def test_reserved_runs_wait_for_their_node(self, store: Store) -> None:
        """A queued run with an owner belongs to that node, whatever the time, until its reservation is lifted."""
        await start(store, msgspec.structs.replace(run("r1"), owner="n1", lease_until=20.0))
        assert await store.runs.claim("n2", 1e9, 5.0, 10, AGENTS) == []
        seen = await store.runs.leases()
        assert await store.runs.renew("n1", 18.0, 5.0, []) == []
        assert await store.runs.take_over("n2", seen, 1e9, 5.0) == []
        assert await store.runs.claim("n2", 1e9, 5.0, 10, AGENTS) == []
        assert ids(await store.runs.claim("n1", 1.0, 5.0, 10, AGENTS)) == ["r1"]
        await start(store, msgspec.structs.replace(run("r2", "t2", user="bob"), owner="n1", lease_until=20.0))
        reserved = [lease for lease in await store.runs.leases() if lease.state == "queued"]
        assert await store.runs.take_over("n2", reserved, 1.0, 5.0) == []
        assert ids(await store.runs.claim("n3", 1.0, 5.0, 10, AGENTS)) == ["r2"]

    async def test_queue_position(self, store: Store) -> None:
        """The number of runs before it: in its thread, or in its user's quota."""
        await start(store, *(run(f"r{n}", at=float(n)) for n in range(3)), run("q", "t2", at=9.0))
        assert [await store.runs.queue_position("a", f"r{n}") for n in range(3)] == [0, 1, 2]
        await store.runs.claim("n1", 10.0, 5.0, 1, AGENTS)
        assert [await store.runs.queue_position("a", f"r{n}") for n in range(3)] == [0, 0, 1]
        assert await store.runs.queue_position("a", "q") == 2
        assert await store.runs.queue_position("b", "r2") == 0


class TestLeases:
    """`renew`, `started`, `finish`, `orphans`, `release`: fencing by owner and attempt."""

    async def test_life_of_a_run(self, store: Store) -> None:
        """Claimed, started, finished; every step is stored."""
        await start(store, run("r1"))
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 1, AGENTS)
        assert await store.runs.started(claimed, Position(41, "e1"), 11.0)
        assert await finish(store, claimed)
        kept = await store.runs.get("a", "r1")
        assert kept is not None
        assert (kept.start_offset, kept.start_epoch, kept.started_at) == (41, "e1", 11.0)
        assert (kept.state, kept.finished_at) == ("finished", 30.0)
        assert (kept.count, kept.digest, kept.text, kept.error) == (3, "d", "answer", "")
        assert not await finish(store, claimed)

    async def test_a_lease_that_did_not_move_is_taken_over_and_fenced(self, store: Store) -> None:
        """Whatever the times are; the first owner's steps have no effect any more, and a second take-over finds
        nothing.
        """
        await start(store, run("r1"))
        [claimed] = await store.runs.claim("n1", 1e9, 1e9, 1, AGENTS)
        seen = await store.runs.leases()
        assert [(lease.run_id, lease.owner, lease.attempt) for lease in seen] == [("r1", "n1", 1)]
        [taken] = await store.runs.take_over("n2", seen, 15.0, 5.0)
        assert (taken.owner, taken.attempt, taken.lease_until) == ("n2", 2, 20.0)
        assert await store.runs.take_over("n3", seen, 15.0, 5.0) == []
        assert not await store.runs.started(claimed, Position(1, "e"), 16.0)
        assert not await finish(store, claimed)
        assert await store.runs.renew("n1", 16.0, 5.0, ["r1"]) == []
        assert await finish(store, taken)
        assert await store.runs.leases() == []

    async def test_parallel_take_overs_share_nothing(self, store: Store) -> None:
        """10 nodes take over the same 12 at once."""
        await start(store, *(run(f"r{n}", f"t{n}", user=f"u{n}") for n in range(12)))
        await store.runs.claim("n0", 10.0, 5.0, 20, AGENTS)
        seen = await store.runs.leases()
        taken = await asyncio.gather(*(store.runs.take_over(f"m{n}", seen, 20.0, 5.0) for n in range(10)))
        names = [entry.run_id for part in taken for entry in part]
        assert sorted(names) == sorted(f"r{n}" for n in range(12))

    async def test_renewing_moves_a_lease(self, store: Store) -> None:
        """Whatever the owner's clock does, also backwards or not at all: a lease that moved cannot be taken over, and
        one that is not held does not move.
        """
        await start(store, run("r1"), run("r2", "t2", user="bob"), run("lost", "t3", user="cid"))
        await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS)
        held = ["r1", "r2", "another's"]
        for now in (14.0, 10.0, 10.0, -1e6):
            seen = await store.runs.leases()
            assert sorted(await store.runs.renew("n1", now, 5.0, held)) == ["r1", "r2"]
            still = [lease.run_id for lease in await store.runs.leases() if lease in seen]
            assert still == ["lost"]
            assert seen[0].run_id == "lost" or await store.runs.take_over("n2", seen[:1], 1e9, 5.0) == []
        assert ids(await store.runs.take_over("n2", await store.runs.leases(), 1e9, 5.0)) != []
        assert await store.runs.renew("n1", 99.0, 5.0, held) == []

    async def test_a_lease_that_only_its_moment_moves(self, store: Store) -> None:
        """A node of the version before renews without counting: its write differs from the observed one."""
        await start(store, run("r1"))
        await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS)
        [seen] = await store.runs.leases()
        older = msgspec.structs.replace(seen, lease_until=seen.lease_until - 1.0)
        assert await store.runs.take_over("n2", [older], 1e9, 5.0) == []
        assert ids(await store.runs.take_over("n2", [seen], 1e9, 5.0)) == ["r1"]

    async def test_unreserve(self, store: Store) -> None:
        """Only the owner's queued runs are for any node then, and not those of an agent that waits there."""
        mine = {"owner": "n1", "lease_until": 99.0}
        await start(
            store,
            run("running"),
            msgspec.structs.replace(run("queued", "t2", user="bob"), **mine),
            msgspec.structs.replace(run("answer", "t3", user="cid"), parent_run_id="asked", **mine),
            msgspec.structs.replace(run("other", "t4", user="dan"), parent_run_id="gone", **mine),
            msgspec.structs.replace(run("theirs", "t5", user="eve"), owner="n2", lease_until=99.0),
        )
        assert ids(await store.runs.claim("n1", 10.0, 60.0, 1, AGENTS)) == ["running"]
        assert await store.runs.unreserve("n1", ["asked", "another"]) == 2
        assert await store.runs.unreserve("n1", ["asked"]) == 0
        owners = {lease.run_id: lease.owner for lease in await store.runs.leases()}
        assert owners == {"running": "n1", "answer": "n1", "theirs": "n2"}
        assert ids(await store.runs.claim("n3", 12.0, 5.0, 10, AGENTS)) == ["queued", "other"]
        assert await store.runs.unreserve("n1", []) == 1

    async def test_an_answer_after_a_clean_stop_is_for_any_node(self, store: Store) -> None:
        """The agent that asked waits nowhere any more; what other nodes' agents asked stays theirs."""
        await start(store, run("r1"))
        asked = interrupt("i1")
        await store.runs.open_interrupt(asked)
        await store.runs.open_interrupt(msgspec.structs.replace(asked, interrupt_id="i2", node="other/1"))
        assert await store.runs.release(asked.node, [("a", "i1"), ("a", "i2"), ("b", "i1")]) == 0
        nodes = [await store.runs.interrupt("a", name) for name in ("i1", "i2")]
        assert [one and one.node for one in nodes] == ["", "other/1"]

    async def test_release(self, store: Store) -> None:
        """A clean stop leaves no run or reservation with that owner, and does not touch other owners'."""
        await start(
            store,
            run("r1"),
            msgspec.structs.replace(run("r2", "t2", user="bob"), owner="n1", lease_until=99.0),
            run("r3", "t3", user="cid"),
        )
        await store.runs.claim("n1", 10.0, 60.0, 1, AGENTS)
        await store.runs.claim("n2", 10.0, 60.0, 1, AGENTS)
        assert await store.runs.release("n1") == 2
        seen = await store.runs.leases()
        assert {lease.run_id: lease.owner for lease in seen} == {"r1": "", "r3": "n2"}
        unowned = [lease for lease in seen if not lease.owner]
        assert ids(await store.runs.take_over("n2", unowned, 12.0, 5.0)) == ["r1"]
        assert ids(await store.runs.claim("n2", 12.0, 5.0, 10, AGENTS)) == ["r2"]

    async def test_cancel(self, store: Store) -> None:
        """A queued run is cancelled at once, a running one is asked to stop, a finished one is unchanged."""
        await start(store, run("r1", at=1.0), run("r2", at=2.0))
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 1, AGENTS)
        queued = await store.runs.request_cancel("a", "r2", "bob", 11.0)
        assert queued is not None
        assert (queued.state, queued.finished_at, queued.cancel_requested_by) == ("cancelled", 11.0, "bob")
        assert (queued.unclosed, queued.over) == (True, False)
        running = await store.runs.request_cancel("a", "r1", "bob", 11.0)
        again = await store.runs.request_cancel("a", "r1", "cid", 12.0)
        assert running is not None
        assert running == again
        assert (running.state, running.cancel_requested_by) == ("running", "bob")
        assert ids(await store.runs.unclosed(10)) == ["r2"]
        assert ids(await store.runs.cancel_requests("n1")) == ["r1"]
        assert await store.runs.cancel_requests("n2") == []
        assert await finish(store, claimed, "cancelled")
        assert await store.runs.cancel_requests("n1") == []
        after = await store.runs.request_cancel("a", "r1", "cid", 13.0)
        assert after is not None
        assert (after.state, after.cancel_requested_by) == ("cancelled", "bob")
        assert await store.runs.request_cancel("b", "r1", "x", 1.0) is None
        await store.runs.closed(msgspec.structs.replace(after, count=9, digest="not this one"))
        said = {"state": "failed", "text": "so far", "error": "owner_lost", "error_message": "It died."}
        said["result"] = '{"a":1}'
        await store.runs.closed(msgspec.structs.replace(queued, count=2, digest="d2", **said))
        await store.runs.closed(msgspec.structs.replace(queued, count=9, digest="once only"))
        assert await store.runs.unclosed(10) == []
        rows = [await store.runs.get("a", name) for name in ("r1", "r2")]
        assert [(row.count, row.digest) for row in rows if row is not None] == [(3, "d"), (2, "d2")]
        assert rows[1] == msgspec.structs.replace(queued, count=2, digest="d2", unclosed=False, **said)
        assert rows[1].over

    async def test_lists_and_counts(self, store: Store) -> None:
        """Active runs oldest first, all runs newest first, active ones counted by user."""
        await start(store, *(run(f"r{n}", at=float(n)) for n in range(3)))
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 1, AGENTS)
        await finish(store, claimed)
        assert ids(await store.runs.active_in_thread("a", "t1")) == ["r1", "r2"]
        assert ids(await store.runs.list_in_thread("a", "t1", 2)) == ["r2", "r1"]
        assert await store.runs.active_in_thread("b", "t1") == []
        assert await store.runs.active_in_threads("a", ["t1", "t2", "t3"]) == [("t1", "r1"), ("t1", "r2")]
        assert await store.runs.active_in_threads("b", ["t1"]) == []
        assert await store.runs.active_in_threads("a", []) == []
        assert await store.runs.active_count("a", "ann") == 2
        assert await store.runs.active_count("b", "ann") == 0

    async def test_how_runs_ended_is_kept(self, store: Store) -> None:
        """State, error, its message, the stopping user and the time: of named runs and of a period."""
        await start(store, *(run(f"r{n}", at=float(n)) for n in range(4)))
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 1, AGENTS)
        assert claimed.run_id == "r0"
        await store.runs.started(claimed, Position(1, "e"), 11.0)
        await store.runs.finish(
            claimed,
            state="failed",
            count=2,
            digest="d",
            text="",
            error="agent_failed",
            error_message="It broke.",
            now=13.0,
        )
        await store.runs.request_cancel("a", "r1", "bob", 12.0)
        await store.runs.request_cancel("a", "r2", "cid", 14.0)

        async def found(
            since: float, before: float | None, *names: str, limit: int = 9, before_id: str = ""
        ) -> list[str]:
            page = await store.runs.outcomes(
                "a", "t1", since=since, before=before, before_id=before_id, run_ids=names, limit=limit
            )
            return [outcome.run_id for outcome in page]

        assert await found(0.0, None) == ["r0", "r1", "r2"], "r3 is queued"
        assert await found(1.0, 2.0) == ["r1"]
        assert await found(2.0, None, "r0", "nosuch", "r3") == ["r0", "r2"]
        assert await found(0.0, None, limit=2) == ["r1", "r2"]
        assert await found(0.0, 1.0, before_id="r1") == ["r0"]
        assert await found(0.0, 1.0, before_id="r2") == ["r0", "r1"], "of the same moment, a smaller id"
        assert await store.runs.outcomes("b", "t1", since=0.0, before=None, run_ids=["r0"], limit=9) == []
        failed, stopped, _ = await store.runs.outcomes("a", "t1", since=0.0, before=None, run_ids=(), limit=9)
        assert (failed.state, failed.error, failed.error_message) == ("failed", "agent_failed", "It broke.")
        assert (failed.started_at, failed.finished_at) == (11.0, 13.0)
        assert (stopped.state, stopped.cancel_requested_by) == ("cancelled", "bob")
        assert (stopped.started_at, stopped.finished_at) == (0.0, 12.0)

    async def test_what_a_run_reported_is_kept(self, store: Store) -> None:
        """Tokens and result whole; in a page of ended runs only where they are short."""
        await start(store, run("r0"), run("r1", "t2", user="bob"))
        short, long = '[{"outputTokens":3}]', f'"{"x" * MAX_REPORT}"'
        for claimed in await store.runs.claim("n1", 10.0, 5.0, 2, AGENTS):
            usage, result = (short, long) if claimed.run_id == "r0" else (long, "7")
            ended: dict[str, Any] = {
                "state": "finished",
                "count": 2,
                "digest": "d",
                "text": "",
                "error": "",
                "now": 13.0,
            }
            assert await store.runs.finish(claimed, usage=usage, result=result, **ended)
        rows = [await store.runs.get("a", name) for name in ("r0", "r1")]
        assert [(row.usage, row.result) for row in rows if row is not None] == [(short, long), (long, "7")]
        pages = [
            await store.runs.outcomes("a", name, since=0.0, before=None, run_ids=(), limit=9)
            for name in ("t1", "t2")
        ]
        assert [(one.usage, one.result) for page in pages for one in page] == [(short, ""), ("", "7")]


class TestInterrupts:
    """Approvals."""

    async def test_answered_once(self, store: Store) -> None:
        """Of 20 concurrent answers one counts, all get its record, and one run continues."""
        await store.runs.open_interrupt(interrupt("i1"))
        kept = await store.runs.interrupt("a", "i1")
        await store.runs.open_interrupt(interrupt("i1"))
        assert kept is not None
        assert msgspec.structs.replace(kept, expires_at=100.0) == interrupt("i1")
        assert await store.runs.interrupt("a", "i1") == kept
        assert await store.runs.open_interrupts("a", "t1") == [kept]
        answers = await asyncio.gather(
            *(
                store.runs.answer_interrupt(
                    "a",
                    "i1",
                    by=f"u{n}",
                    payload=f"{n}",
                    resume=msgspec.structs.replace(run(f"r{n}"), owner="n1", lease_until=60.0),
                )
                for n in range(20)
            )
        )
        assert len({msgspec.json.encode(answer) for answer in answers}) == 1
        assert answers[0] is not None
        active = await store.runs.active_in_thread("a", "t1")
        assert ids(active) == [answers[0].resume_run_id]
        assert (active[0].owner, active[0].lease_until) == ("n1", 60.0)
        assert await store.runs.open_interrupts("a", "t1") == []
        asked = interrupt("i1").run_id
        assert await store.runs.interrupts_of("a", "t1", [asked, "nosuch"]) == [answers[0]]
        assert await store.runs.interrupts_of("b", "t1", [asked]) == []
        assert await store.runs.interrupts_of("a", "t1", []) == []

    async def test_expired_or_unknown(self, store: Store) -> None:
        """Too late by the store's own count, another tenant's, or none: no answer, no run. No wall clock decides: the
        clocks of the asking and the answering node may be days apart.
        """
        for name, created_at, expires_at in (
            ("i1", 9e9, 9e9 - 1.0),
            ("i2", -9e9, 60.0 - 9e9),
            ("i3", 9e9, 9e9 + 60),
        ):
            asked = msgspec.structs.replace(interrupt(name), created_at=created_at, expires_at=expires_at)
            await store.runs.open_interrupt(asked)
        for tenant, name in (("a", "i1"), ("b", "i2"), ("a", "i9")):
            answer = await store.runs.answer_interrupt(tenant, name, by="u", payload="1", resume=run("r1"))
            assert answer is None
        assert await store.runs.get("a", "r1") is None
        opened = await store.runs.open_interrupts("a", "t1")
        assert [entry.interrupt_id for entry in opened] == ["i2", "i3"]
        assert await store.runs.interrupt("b", "i1") is None
        for name in ("i2", "i3"):
            answer = await store.runs.answer_interrupt(
                "a", name, by="u", payload="1", resume=run(f"r-{name}")
            )
            assert answer is not None

    async def test_answer_and_run_are_one_step(self, store: Store) -> None:
        """If the run cannot be queued, the approval stays open, and neighbouring writes are not undone."""
        await store.runs.open_interrupt(interrupt("i1"))
        kept = await store.runs.interrupt("a", "i1")
        await start(store, run("r1"))
        answer, created = await asyncio.gather(
            store.runs.answer_interrupt("a", "i1", by="u", payload="1", resume=run("r1")),
            store.threads.create(thread("t9")),
            return_exceptions=True,
        )
        assert isinstance(answer, Bug)
        assert created is True
        assert await store.runs.interrupt("a", "i1") == kept

    async def test_the_first_answer_stays_after_expiry(self, store: Store) -> None:
        """A later answer, after the expiry, still returns the first record."""
        brief = msgspec.structs.replace(interrupt("i1"), expires_at=40.0 + within(0.4))
        await store.runs.open_interrupt(brief)
        first = await store.runs.answer_interrupt("a", "i1", by="u", payload="1", resume=run("r1"))
        assert first is not None
        second = msgspec.structs.replace(brief, interrupt_id="i2")
        await store.runs.open_interrupt(second)
        async with asyncio.timeout(within(10)):
            while await store.runs.open_interrupts("a", "t1"):  # noqa: ASYNC110 - the store's own clock has no event
                await asyncio.sleep(0.02)
        again = await store.runs.answer_interrupt("a", "i1", by="v", payload="2", resume=run("r2"))
        assert again == first
        assert await store.runs.answer_interrupt("a", "i2", by="v", payload="2", resume=run("r3")) is None
