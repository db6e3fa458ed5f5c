"""The contract of `ports/store.py` and of the ports behind it, run by every engine. Credentials: next file."""

from __future__ import annotations

import asyncio
import signal
import subprocess
from pathlib import Path

import msgspec
import pytest

from narthex.errors import Bug, ClientError, DependencyError
from narthex.ports.broker import Position
from narthex.ports.runs import Interrupt, Run
from narthex.ports.store import KEPT_RESULTS, AuditRecord, Sample, Store, TestRunResult
from narthex.ports.threads import Departure, Membership, Message, PostResult, Thread, ThreadMember
from tests.contracts.rigs import StoreRig, child
from tests.timing import within

ROOT = Path(__file__).parents[2]


def thread(
    thread_id: str, tenant: str = "a", *, by: str = "ann", at: float = 1.0, title: str = "Title"
) -> Thread:
    """A thread."""
    return Thread(
        thread_id=thread_id, tenant=tenant, title=title, created_by=by, created_at=at, updated_at=at
    )


def message(message_id: str, thread_id: str = "t1", *, at: float = 2.0, content: str = "hello") -> Message:
    """A user's message."""
    return Message(
        message_id=message_id, thread_id=thread_id, role="user", author="ann", content=content, created_at=at
    )


def run(run_id: str, thread_id: str = "t1", *, tenant: str = "a", user: str = "ann", at: float = 1.0) -> Run:
    """A queued run whose client message id equals its run id."""
    return Run(
        run_id=run_id,
        thread_id=thread_id,
        tenant=tenant,
        user_id=user,
        agent="concierge",
        state="queued",
        client_message_id=run_id,
        message_id="m-" + run_id,
        created_at=at,
    )


async def start(store: Store, *runs: Run) -> None:
    """Queue runs in existing threads."""
    for entry in runs:
        await store.threads.create(thread(entry.thread_id, entry.tenant))
        await store.runs.start(entry, queue_limit=100)


def ids(runs: list[Run]) -> list[str]:
    """Their ids, in order."""
    return [entry.run_id for entry in runs]


class TestLife:
    """`start`, `stop`, `ping`, durability."""

    async def test_writes_survive_a_restart(self, store_rig: StoreRig) -> None:
        """Data written before a clean stop is read after the next start; a second migration changes nothing."""
        first = store_rig.make()
        await first.start()
        await first.threads.create(thread("t1"))
        await first.stop()
        second = store_rig.make()
        await second.start()
        assert await second.threads.get("a", "t1") == thread("t1")
        await second.stop()

    async def test_stopped_store_says_so(self, store_rig: StoreRig) -> None:
        """Before `start` and after `stop` calls raise; a second stop is allowed."""
        store = store_rig.make()
        with pytest.raises(DependencyError):
            await store.threads.get("a", "t1")
        await store.start()
        await store.stop()
        await store.stop()
        with pytest.raises(DependencyError):
            await store.threads.create(thread("t1"))

    async def test_ping(self, store: Store) -> None:
        """A round trip, also many at once."""
        await asyncio.gather(*(store.ping() for _ in range(10)))
        assert store.durability.endswith(".")

    async def test_acknowledged_writes_survive_kill_9(self, store_rig: StoreRig) -> None:
        """A writer killed during its work, three times: every acknowledged audit record is present."""
        told: set[str] = set()
        for turn in range(3):
            told |= set(await asyncio.to_thread(_write_and_kill, store_rig.spec(), turn * 1_000_000, 300))
        store = store_rig.make()
        await store.start()
        kept = {record.subject for record in await store.records.audits("kill", 10_000)}
        await store.stop()
        assert len(told) >= 900
        assert told <= kept

    async def test_cancelled_writes_do_not_disturb_others(self, store: Store) -> None:
        """Of 90 creates every third is cancelled mid-flight: the others are present."""
        tasks = [asyncio.create_task(store.threads.create(thread(f"t{n}"))) for n in range(90)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for number, outcome in enumerate(outcomes):
            if outcome is True:
                assert await store.threads.get("a", f"t{number}") == thread(f"t{number}")
            else:
                assert number % 3 == 0
        assert await store.threads.create(thread("after"))

    async def test_a_failing_write_undoes_only_itself(self, store: Store) -> None:
        """Writes that fail among others that run at the same time."""
        await start(store, run("r0"))
        outcomes = await asyncio.gather(
            *(store.runs.start(run(f"r{n}"), queue_limit=1 if n % 2 else 100) for n in range(1, 21)),
            return_exceptions=True,
        )
        for number, outcome in enumerate(outcomes, start=1):
            assert isinstance(outcome, ClientError if number % 2 else tuple)
        assert len(await store.runs.active_in_thread("a", "t1")) == 11


def _write_and_kill(spec: str, start_at: int, lines: int) -> list[str]:
    """The acknowledged subjects that a writer process printed before it was killed."""
    process = subprocess.Popen(
        child("auditor", spec, str(start_at)), stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        told = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return [line.strip() for line in told if line.endswith("\n")]


class TestThreads:
    """`ports/threads.py`."""

    async def test_create_and_get(self, store: Store) -> None:
        """The creator is the owner; an id exists once across all tenants."""
        assert await store.threads.create(thread("t1"))
        assert not await store.threads.create(thread("t1"))
        assert not await store.threads.create(thread("t1", "b"))
        assert await store.threads.get("a", "t1") == thread("t1")
        assert await store.threads.members("a", "t1") == [
            ThreadMember(user_id="ann", role="owner", joined_at=1.0)
        ]

    async def test_another_tenants_rows_are_absent(self, store: Store) -> None:
        """Every method treats another tenant's thread as one that does not exist."""
        threads = store.threads
        await threads.create(thread("t1"))
        await threads.add_messages("a", [message("m1")])
        member = ThreadMember(user_id="bob", role="member", joined_at=1.0)
        assert await threads.get("b", "t1") is None
        assert await threads.list_for("b", "ann", before=None, limit=10) == []
        assert not await threads.rename("b", "t1", "x", 2.0)
        assert await threads.delete("b", "t1") == "absent"
        assert await threads.members("b", "t1") == []
        assert await threads.role("b", "t1", "ann") is None
        assert await threads.add_member("b", "t1", member, limit=None) == "absent"
        assert (await threads.remove_member("b", "t1", "ann")).outcome == "absent"
        assert not await threads.mark_read("b", "t1", "ann", 5)
        await threads.add_messages("b", [message("m2")])
        assert await threads.messages("b", "t1", before=None, limit=10) == []
        assert await threads.search("b", "ann", "hello", limit=10) == []
        assert await threads.get("a", "t1") == msgspec.structs.replace(thread("t1"), updated_at=2.0)
        assert [m.message_id for m in await threads.messages("a", "t1", before=None, limit=10)] == ["m1"]

    async def test_list_for(self, store: Store) -> None:
        """Most recently updated first, older than `before`, only the user's own memberships."""
        for number in range(5):
            await store.threads.create(thread(f"t{number}", at=float(number)))
        await store.threads.create(thread("other", by="bob", at=9.0))
        listed = await store.threads.list_for("a", "ann", before=None, limit=3)
        assert [entry.thread_id for entry in listed] == ["t4", "t3", "t2"]
        listed = await store.threads.list_for("a", "ann", before=2.0, limit=3)
        assert [entry.thread_id for entry in listed] == ["t1", "t0"]

    async def test_pages_skip_nothing_of_one_moment(self, store: Store) -> None:
        """Seven threads and seven messages, most with the same time: pages of two show each once."""
        for number in range(7):
            await store.threads.create(thread(f"t{number}", at=1.0 + number // 5))
        everything = [message(f"m{n}", at=1.0 + n // 5) for n in range(7)]
        await store.threads.add_messages("a", everything)
        seen: list[str] = []
        before, last = None, ""
        while listed := await store.threads.list_for("a", "ann", before=before, before_id=last, limit=2):
            seen += [entry.thread_id for entry in listed]
            before, last = listed[-1].updated_at, listed[-1].thread_id
        assert seen == ["t6", "t5", "t1", "t4", "t3", "t2", "t0"]
        read: list[Message] = []
        before, last = None, ""
        while page := await store.threads.messages("a", "t1", before=before, before_id=last, limit=2):
            read = page + read
            before, last = page[0].created_at, page[0].message_id
        assert read == everything

    async def test_messages_come_in_the_order_of_the_log(self, store: Store) -> None:
        """Whatever their times and the order of storing, in pages too; messages of a new log follow those of the old
        one.
        """
        await store.threads.create(thread("t1"))
        await store.threads.add_messages("a", [message("first", at=50.0)])
        await store.threads.post("a", message("question", at=9_000.0), Position(4, "e1"))
        await store.threads.posted("a", "t1", "question", Position(5, "e1"), 7)
        await store.threads.post("a", message("meanwhile", at=1.0), Position(11, "e1"))
        await store.threads.post("a", message("later", at=0.5), Position(2, "e2"))
        late = [message("answer", at=2.0), message("more", at=1.5)]
        await store.threads.add_messages("a", late, [Position(8, "e1"), Position(10, "e1")])
        await store.threads.add_messages("a", [message("last", at=0.1)])
        wanted = ["first", "question", "answer", "more", "meanwhile", "later", "last"]
        read = await store.threads.messages("a", "t1", before=None, limit=10)
        assert [entry.message_id for entry in read] == wanted
        for size, named in ((2, True), (3, True), (2, False)):
            pages: list[str] = []
            before, last = None, ""
            while page := await store.threads.messages("a", "t1", before=before, before_id=last, limit=size):
                pages = [entry.message_id for entry in page] + pages
                before, last = page[0].created_at, page[0].message_id if named else ""
            assert pages == wanted
        rounded = await store.threads.messages("a", "t1", before=1.0004, limit=1)
        assert [entry.message_id for entry in rounded] == ["more"]

    async def test_what_was_said_is_known_again(self, store: Store) -> None:
        """First new; then with its possible position in the log; then with its actual position."""
        await store.threads.create(thread("t1"))
        said = message("m1", at=5.0)
        assert await store.threads.post("a", said, Position(4, "e")) == PostResult(fresh=True)
        changed = message("m1", at=9.0, content="changed")
        assert await store.threads.post("a", changed, Position(8, "f")) == PostResult(
            fresh=False, after=Position(4, "e")
        )
        assert await store.threads.posted("a", "t1", "m1", Position(6, "e"), 9)
        assert not await store.threads.posted("b", "t1", "m1", Position(60, "e"), 90)
        assert not await store.threads.posted("a", "t1", "unknown", Position(6, "e"), 9)
        assert await store.threads.post("a", changed, Position(8, "f")) == PostResult(
            fresh=False, at=Position(9, "e")
        )
        [kept] = await store.threads.messages("a", "t1", before=None, limit=5)
        assert kept == msgspec.structs.replace(said, offset=9)
        assert (await store.threads.post("a", message("m1", "absent"), Position(0, ""))).fresh

    async def test_rename(self, store: Store) -> None:
        """The title changes, also in the search."""
        await store.threads.create(thread("t1", title="Old name"))
        assert await store.threads.rename("a", "t1", "New name", 5.0)
        assert not await store.threads.rename("a", "t9", "x", 5.0)
        found = await store.threads.get("a", "t1")
        assert found is not None
        assert (found.title, found.updated_at) == ("New name", 5.0)
        assert await store.threads.search("a", "ann", "old", limit=5) == []
        assert len(await store.threads.search("a", "ann", "new", limit=5)) == 1

    async def test_members(self, store: Store) -> None:
        """Added, present, full, absent; owners first; removed once."""
        await store.threads.create(thread("t1", by="zoe"))

        async def add(user: str, limit: int | None = 3) -> str:
            member = ThreadMember(user_id=user, role="member", joined_at=2.0)
            return await store.threads.add_member("a", "t1", member, limit=limit)

        assert [await add("bob"), await add("bob"), await add("cid"), await add("dan")] == [
            "added",
            "present",
            "added",
            "full",
        ]
        assert await add("dan", None) == "added"
        assert [m.user_id for m in await store.threads.members("a", "t1")] == ["zoe", "bob", "cid", "dan"]
        assert await store.threads.role("a", "t1", "zoe") == "owner"
        assert await store.threads.role("a", "t1", "bob") == "member"
        assert await store.threads.remove_member("a", "t1", "bob") == Departure(outcome="removed")
        assert (await store.threads.remove_member("a", "t1", "bob")).outcome == "absent"
        assert await store.threads.role("a", "t1", "bob") is None

    async def test_many_memberships_at_once(self, store: Store) -> None:
        """Only those that exist are returned; another tenant's do not exist."""
        threads = store.threads
        assert await threads.still_members(set()) == set()
        for name in ("t1", "t2"):
            await threads.create(thread(name))
        member = ThreadMember(user_id="bob", role="member", joined_at=1.0)
        await threads.add_member("a", "t2", member, limit=None)
        there = {Membership("a", "t1", "ann"), Membership("a", "t2", "ann"), Membership("a", "t2", "bob")}
        absent = {Membership("a", "t1", "bob"), Membership("b", "t1", "ann"), Membership("a", "t3", "ann")}
        crowd = {Membership("a", "t1", f"user-{number}") for number in range(300)}
        assert await threads.still_members(there | absent | crowd) == there
        await threads.remove_member("a", "t2", "bob")
        assert Membership("a", "t2", "bob") not in await threads.still_members(there)

    async def test_a_thread_with_members_has_an_owner(self, store: Store) -> None:
        """After the last owner the longest-standing member becomes owner; the last member stays; also under
        concurrency.
        """
        await store.threads.create(thread("t1", by="zoe"))
        for at, user in enumerate(("cid", "bob", "ann"), start=2):
            member = ThreadMember(user_id=user, role="member", joined_at=float(at))
            await store.threads.add_member("a", "t1", member, limit=None)
        assert await store.threads.remove_member("a", "t1", "zoe") == Departure(outcome="removed", heir="cid")
        assert await store.threads.role("a", "t1", "cid") == "owner"
        gone = await asyncio.gather(
            *(store.threads.remove_member("a", "t1", user) for user in ("cid", "bob", "ann"))
        )
        assert sorted(found.outcome for found in gone) == ["last", "removed", "removed"]
        assert [member.role for member in await store.threads.members("a", "t1")] == ["owner"]

    async def test_the_last_place_is_taken_once(self, store: Store) -> None:
        """30 users join at once where 5 fit."""
        await store.threads.create(thread("t1"))
        outcomes = await asyncio.gather(
            *(
                store.threads.add_member(
                    "a", "t1", ThreadMember(user_id=f"u{n}", role="member", joined_at=1.0), limit=5
                )
                for n in range(30)
            )
        )
        assert sorted(outcomes) == ["added"] * 4 + ["full"] * 26

    async def test_read_marker_never_goes_back(self, store: Store) -> None:
        """Forward only."""
        await store.threads.create(thread("t1"))
        assert await store.threads.mark_read("a", "t1", "ann", 7)
        assert await store.threads.mark_read("a", "t1", "ann", 3)
        assert not await store.threads.mark_read("a", "t1", "bob", 3)
        assert (await store.threads.members("a", "t1"))[0].read_offset == 7

    async def test_messages(self, store: Store) -> None:
        """Idempotent by id, newest `limit` in ascending order; `updated_at` follows."""
        await store.threads.create(thread("t1"))
        await store.threads.create(thread("t2"))
        everything = [message(f"m{n}", at=10.0 + n, content=f"text {n}") for n in range(5)]
        everything[0] = msgspec.structs.replace(
            everything[0], role="tool", run_id="r1", detail='{"name":"x"}', offset=12, content="ä\n"
        )
        await store.threads.add_messages("a", everything)
        await store.threads.add_messages("a", [message("m1", content="changed"), message("m1", "t2")])
        assert await store.threads.messages("a", "t1", before=None, limit=10) == everything
        assert await store.threads.messages("a", "t1", before=13.0, limit=2) == everything[1:3]
        assert len(await store.threads.messages("a", "t2", before=None, limit=10)) == 1
        found = await store.threads.get("a", "t1")
        assert found is not None
        assert found.updated_at == 14.0

    async def test_search(self, store: Store) -> None:
        """Messages and titles of the user's own threads, all words, the last one as a prefix; snippets are marked."""
        await store.threads.create(thread("t1", title="Garden plans"))
        await store.threads.create(thread("t2", by="bob", title="Garden secrets"))
        await store.threads.add_messages(
            "a",
            [
                message("m1", content="Where do the tomatoes grow best? Next to the garden wall."),
                message("m2", content="Nothing of the kind"),
                message("m3", "t2", content="garden of bob"),
            ],
        )
        hits = await store.threads.search("a", "ann", "garden", limit=10)
        assert {(hit.thread_id, hit.message_id) for hit in hits} == {("t1", ""), ("t1", "m1")}
        [hit] = await store.threads.search("a", "ann", "TOMATOES gro", limit=10)
        assert (hit.message_id, hit.title, hit.created_at) == ("m1", "Garden plans", 2.0)
        assert "[tomatoes]" in hit.snippet
        assert await store.threads.search("a", "ann", "tomatoes absent", limit=10) == []
        assert len(await store.threads.search("a", "ann", "garden", limit=1)) == 1

    @pytest.mark.parametrize("tenant", ["a", "a_b", "-", "_", "~."])
    async def test_search_finds_in_every_tenant(self, store: Store, tenant: str) -> None:
        """Also in a tenant whose name has no letter; punctuation in a search text is not a word."""
        await store.threads.create(thread("t1", tenant, title="hello_there"))
        for text in ("hello", "there __", "_ hel", "hello_the"):
            hits = await store.threads.search(tenant, "ann", text, limit=5)
            assert [hit.thread_id for hit in hits] == ["t1"], text
        assert await store.threads.search("other", "ann", "hello", limit=5) == []

    @pytest.mark.parametrize(
        "text",
        ["", " ", '"', "'; DROP TABLE threads; --", "a OR", "NEAR(", "*", "a:b", "&|!()", "ä*", "-x", "\0"],
    )
    async def test_search_takes_any_text(self, store: Store, text: str) -> None:
        """An engine's search syntax is plain text here."""
        await store.threads.create(thread("t1"))
        assert await store.threads.search("a", "ann", text, limit=5) == []

    async def test_delete_is_real(self, store: Store) -> None:
        """Members, messages, runs, approvals and search entries are deleted with the thread; others' stay."""
        for name in ("t1", "t2"):
            await store.threads.create(thread(name, title="Unicorn"))
            await store.threads.add_messages("a", [message("m1", name, content="pegasus")])
            await start(store, run(f"r-{name}", name, user=name))
            await store.runs.open_interrupt(interrupt(f"i-{name}", name))
        assert await store.threads.delete("a", "t1") == "busy"  # one is queued
        claimed = await store.runs.claim("n1", 10.0, 5.0, 10)
        assert await store.threads.delete("a", "t1") == "busy"  # one is running
        for entry in claimed:
            assert await finish(store, entry)
        assert await store.threads.delete("a", "t1") == "deleted"
        assert await store.threads.delete("a", "t1") == "absent"
        assert await store.threads.get("a", "t1") is None
        assert await store.runs.get("a", "r-t1") is None
        assert await store.runs.interrupt("a", "i-t1") is None
        assert await store.threads.messages("a", "t1", before=None, limit=10) == []
        assert await store.threads.list_for("a", "ann", before=None, limit=10) != []
        for word in ("unicorn", "pegasus"):
            hits = await store.threads.search("a", "ann", word, limit=10)
            assert [hit.thread_id for hit in hits] == ["t2"]
        assert await store.threads.create(thread("t1", title="Unicorn again"))
        assert len(await store.threads.search("a", "ann", "pegasus", limit=10)) == 1


def interrupt(interrupt_id: str, thread_id: str = "t1") -> Interrupt:
    """An approval that stays open for a minute."""
    return Interrupt(
        interrupt_id=interrupt_id,
        run_id="r1",
        thread_id=thread_id,
        tenant="a",
        text="May I?",
        schema="{}",
        created_at=40.0,
        expires_at=100.0,
        node="n1",
    )


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
        await store.runs.claim("n1", 10.0, 5.0, 1)
        with pytest.raises(ClientError, match="runs waiting"):
            await store.runs.start(run("r2"), queue_limit=0)

    async def test_claim_takes_the_oldest_of_each_idle_thread(self, store: Store) -> None:
        """One running run per thread; the next one follows when it has finished."""
        one = msgspec.structs.replace(run("r1", at=1.0), concurrent_limit=10)
        two = msgspec.structs.replace(run("r2", at=2.0), concurrent_limit=10)
        other = msgspec.structs.replace(run("r3", "t2", at=3.0), concurrent_limit=10)
        await start(store, one, two, other)
        claimed = await store.runs.claim("n1", 10.0, 5.0, 10)
        assert ids(claimed) == ["r1", "r3"]
        assert {(r.state, r.owner, r.lease_until, r.attempt) for r in claimed} == {("running", "n1", 15.0, 1)}
        assert await store.runs.claim("n2", 10.0, 5.0, 10) == []
        assert await finish(store, claimed[0])
        assert ids(await store.runs.claim("n2", 10.0, 5.0, 10)) == ["r2"]

    async def test_claim_honours_the_users_limit(self, store: Store) -> None:
        """A user with two concurrent runs waits with the third; another user's run goes ahead."""
        mine = [
            msgspec.structs.replace(run(f"r{n}", f"t{n}", at=float(n)), concurrent_limit=2) for n in range(4)
        ]
        await start(store, *mine, run("bobs", "tb", user="bob", at=9.0))
        claimed = await store.runs.claim("n1", 10.0, 5.0, 10)
        assert ids(claimed) == ["r0", "r1", "bobs"]
        assert await store.runs.claim("n1", 10.0, 5.0, 10) == []
        await finish(store, claimed[0])
        assert ids(await store.runs.claim("n1", 10.0, 5.0, 10)) == ["r2"]

    async def test_claim_is_fair_between_tenants(self, store: Store) -> None:
        """A tenant with a long queue does not starve the others, within a call and across calls."""
        await start(
            store,
            *(run(f"a{n}", f"ta{n}", user=f"u{n}", at=float(n)) for n in range(6)),
            *(run(f"b{n}", f"tb{n}", tenant="b", user=f"u{n}", at=100.0 + n) for n in range(2)),
            run("c0", "tc", tenant="c", at=200.0),
        )
        first = ids(await store.runs.claim("n1", 300.0, 5.0, 4))
        assert first == ["a0", "b0", "c0", "a1"]
        second = ids(await store.runs.claim("n1", 300.0, 5.0, 10))
        assert second == ["b1", "a2", "a3", "a4", "a5"]

    async def test_parallel_claims_never_share(self, store: Store) -> None:
        """20 claims at once over 30 runs: each run gets one owner, quotas hold."""
        await start(store, *(run(f"r{n}", f"t{n}", user=f"u{n % 15}", at=float(n)) for n in range(30)))
        claims = await asyncio.gather(*(store.runs.claim(f"n{n}", 50.0, 5.0, 3) for n in range(20)))
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
        while claimed := await store.runs.claim("n1", 10.0, 5.0, 10):
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
        while claimed := await store.runs.claim("n1", 10.0, 5.0, 10):
            order += ids(claimed)
            assert await store.runs.queue_position("a", "r3") == max(0, 3 - len(order))
            await finish(store, claimed[0])
        assert order == ["r0", "r1", "r2", "r3"]

    async def test_reserved_runs_wait_for_their_node(self, store: Store) -> None:
        """A queued run with an owner belongs to that node, whatever the time, until its reservation is lifted."""
        await start(store, msgspec.structs.replace(run("r1"), owner="n1", lease_until=20.0))
        assert await store.runs.claim("n2", 1e9, 5.0, 10) == []
        seen = await store.runs.leases()
        assert await store.runs.renew("n1", 18.0, 5.0, []) == []
        assert await store.runs.take_over("n2", seen, 1e9, 5.0) == []
        assert await store.runs.claim("n2", 1e9, 5.0, 10) == []
        assert ids(await store.runs.claim("n1", 1.0, 5.0, 10)) == ["r1"]
        await start(store, msgspec.structs.replace(run("r2", "t2", user="bob"), owner="n1", lease_until=20.0))
        reserved = [lease for lease in await store.runs.leases() if lease.state == "queued"]
        assert await store.runs.take_over("n2", reserved, 1.0, 5.0) == []
        assert ids(await store.runs.claim("n3", 1.0, 5.0, 10)) == ["r2"]

    async def test_queue_position(self, store: Store) -> None:
        """The number of runs before it: in its thread, or in its user's quota."""
        await start(store, *(run(f"r{n}", at=float(n)) for n in range(3)), run("q", "t2", at=9.0))
        assert [await store.runs.queue_position("a", f"r{n}") for n in range(3)] == [0, 1, 2]
        await store.runs.claim("n1", 10.0, 5.0, 1)
        assert [await store.runs.queue_position("a", f"r{n}") for n in range(3)] == [0, 0, 1]
        assert await store.runs.queue_position("a", "q") == 2
        assert await store.runs.queue_position("b", "r2") == 0


async def finish(store: Store, claimed: Run, state: str = "finished") -> bool:
    """End a run."""
    return await store.runs.finish(
        claimed, state=state, count=3, digest="d", text="answer", error="", now=30.0
    )


class TestLeases:
    """`renew`, `started`, `finish`, `orphans`, `release`: fencing by owner and attempt."""

    async def test_life_of_a_run(self, store: Store) -> None:
        """Claimed, started, finished; every step is stored."""
        await start(store, run("r1"))
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 1)
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
        [claimed] = await store.runs.claim("n1", 1e9, 1e9, 1)
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
        await store.runs.claim("n0", 10.0, 5.0, 20)
        seen = await store.runs.leases()
        taken = await asyncio.gather(*(store.runs.take_over(f"m{n}", seen, 20.0, 5.0) for n in range(10)))
        names = [entry.run_id for part in taken for entry in part]
        assert sorted(names) == sorted(f"r{n}" for n in range(12))

    async def test_renewing_moves_a_lease(self, store: Store) -> None:
        """Whatever the owner's clock does, also backwards or not at all: a lease that moved cannot be taken over, and
        one that is not held does not move.
        """
        await start(store, run("r1"), run("r2", "t2", user="bob"), run("lost", "t3", user="cid"))
        await store.runs.claim("n1", 10.0, 5.0, 10)
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
        await store.runs.claim("n1", 10.0, 5.0, 10)
        [seen] = await store.runs.leases()
        older = msgspec.structs.replace(seen, lease_until=seen.lease_until - 1.0)
        assert await store.runs.take_over("n2", [older], 1e9, 5.0) == []
        assert ids(await store.runs.take_over("n2", [seen], 1e9, 5.0)) == ["r1"]

    async def test_release(self, store: Store) -> None:
        """A clean stop leaves no run or reservation with that owner, and does not touch other owners'."""
        await start(
            store,
            run("r1"),
            msgspec.structs.replace(run("r2", "t2", user="bob"), owner="n1", lease_until=99.0),
            run("r3", "t3", user="cid"),
        )
        await store.runs.claim("n1", 10.0, 60.0, 1)
        await store.runs.claim("n2", 10.0, 60.0, 1)
        assert await store.runs.release("n1") == 2
        seen = await store.runs.leases()
        assert {lease.run_id: lease.owner for lease in seen} == {"r1": "", "r3": "n2"}
        unowned = [lease for lease in seen if not lease.owner]
        assert ids(await store.runs.take_over("n2", unowned, 12.0, 5.0)) == ["r1"]
        assert ids(await store.runs.claim("n2", 12.0, 5.0, 10)) == ["r2"]

    async def test_cancel(self, store: Store) -> None:
        """A queued run is cancelled at once, a running one is asked to stop, a finished one is unchanged."""
        await start(store, run("r1", at=1.0), run("r2", at=2.0))
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 1)
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
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 1)
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
        [claimed] = await store.runs.claim("n1", 10.0, 5.0, 1)
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


class TestRecords:
    """Audit, results, samples."""

    async def test_audits(self, store: Store) -> None:
        """Newest first, by kind or all."""
        for number in range(5):
            await store.records.audit(
                AuditRecord(at=1.0, kind="ab"[number % 2], tenant="t", subject=str(number), detail="{}")
            )
        assert [record.subject for record in await store.records.audits("a", 2)] == ["4", "2"]
        assert [record.subject for record in await store.records.audits(None, 10)] == list("43210")

    async def test_results(self, store: Store) -> None:
        """A test run's result is replaced by its next."""

        def result(name: str, at: float, failed: int = 0) -> TestRunResult:
            return TestRunResult(
                test_run=name,
                at=at,
                environment="staging",
                passed=1,
                failed=failed,
                skipped=0,
                duration_s=0.5,
            )

        await store.records.add_result(result("x", 1.0))
        await store.records.add_result(result("y", 2.0))
        await store.records.add_result(result("x", 3.0, failed=2))
        assert await store.records.results(10) == [result("x", 3.0, failed=2), result("y", 2.0)]

    async def test_results_are_bounded(self, store: Store) -> None:
        """A user who may post results may post many: the newest stay, and a replaced one counts once."""

        def result(number: int) -> TestRunResult:
            return TestRunResult(
                test_run=f"run-{number}", at=float(number), environment="staging", passed=1, failed=0, skipped=0,
                duration_s=0.5,
            )  # fmt: skip

        for number in range(KEPT_RESULTS + 3):
            await store.records.add_result(result(number))
        await store.records.add_result(result(KEPT_RESULTS + 2))
        kept = await store.records.results(KEPT_RESULTS + 10)
        assert [found.test_run for found in kept] == [f"run-{n}" for n in range(KEPT_RESULTS + 2, 2, -1)]

    async def test_samples(self, store: Store) -> None:
        """Oldest first, from `since` on, for one component or all."""
        samples = [
            Sample(at=float(n), component=("broker", "store")[n % 2], status="healthy", latency_ms=0.5)
            for n in range(6)
        ]
        await store.records.add_samples(samples)
        await store.records.add_samples([])
        assert await store.records.samples(None, 2.0, 3) == samples[2:5]
        assert await store.records.samples("store", 0.0, 10) == samples[1::2]
