"""The contract of `ports/threads.py`, run by every engine."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from narthex.ports.broker import Position
from narthex.ports.store import Store
from narthex.ports.threads import Departure, Membership, Message, PostResult, ThreadMember
from tests.contracts.rows import AGENTS, finish, interrupt, message, run, start, thread


def call(name: str) -> Message:
    """A call of a tool that waits for its result."""
    return msgspec.structs.replace(message(name), role="tool", content="", detail='{"answered":false}')


def result(of: Message, by: str) -> Message:
    """The call with a result."""
    detail = f'{{"answered":true,"resultId":"r","by":"{by}"}}'
    return msgspec.structs.replace(of, content=f"by {by}", detail=detail)


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

    async def test_one_of_several_results_of_a_call_is_stored(self, store: Store) -> None:
        """At one moment and later; the same result again is taken, and with another result nothing of the rest is."""
        threads = store.threads
        await threads.create(thread("t1"))
        calls = [call(name) for name in ("c1", "c2", "c3")]
        await threads.add_messages("a", calls)
        both = await asyncio.gather(
            *(threads.answer_calls("a", "t1", [result(calls[0], by)]) for by in ("ann", "bob"))
        )
        assert sorted(both) == [False, True]
        winner, loser = ("ann", "bob") if both[0] else ("bob", "ann")
        assert await threads.answer_calls("a", "t1", [result(calls[0], winner), result(calls[1], winner)])
        assert not await threads.answer_calls("a", "t1", [result(calls[2], loser), result(calls[0], loser)])
        assert await threads.answer_calls("a", "t1", [result(call("none"), loser)])
        assert await threads.answer_calls("b", "t1", [result(calls[2], loser)])
        kept = await threads.messages("a", "t1", before=None, limit=10)
        assert [one.content for one in kept] == [f"by {winner}", f"by {winner}", ""]

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
        again = msgspec.structs.replace(said, created_at=9.0)
        assert await store.threads.post("a", again, Position(8, "f")) == PostResult(
            fresh=False, after=Position(4, "e")
        )
        assert await store.threads.posted("a", "t1", "m1", Position(6, "e"), 9)
        assert not await store.threads.posted("b", "t1", "m1", Position(60, "e"), 90)
        assert not await store.threads.posted("a", "t1", "unknown", Position(6, "e"), 9)
        assert await store.threads.post("a", again, Position(8, "f")) == PostResult(
            fresh=False, at=Position(9, "e")
        )
        for other in (message("m1", content="changed"), msgspec.structs.replace(said, author="ben")):
            assert not (await store.threads.post("a", other, Position(8, "f"))).same
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
        claimed = await store.runs.claim("n1", 10.0, 5.0, 10, AGENTS)
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
