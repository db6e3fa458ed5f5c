"""The contract of `ports/memberships.py`, run by every engine."""

from __future__ import annotations

import asyncio

import pytest

from narthex.errors import ClientError
from narthex.ports import memberships as port
from narthex.ports.broker import Position
from narthex.ports.memberships import Invitation, ShownInvitation
from narthex.ports.store import Store
from narthex.ports.threads import Message, Thread

DAY_S = 86_400.0


def thread(thread_id: str, *, by: str = "ann", tenant: str = "a", at: float = 1.0) -> Thread:
    """A thread."""
    return Thread(
        thread_id=thread_id,
        tenant=tenant,
        title=f"T {thread_id}",
        created_by=by,
        created_at=at,
        updated_at=at,
    )


def asked(
    user: str, thread_id: str = "t1", *, by: str = "ann", at: float = 10.0, limit: int = 5
) -> Invitation:
    """An invitation."""
    return Invitation(
        thread_id=thread_id,
        tenant="a",
        user_id=user,
        invited_by=by,
        created_at=at,
        member_limit=limit,
        inviter_name="Ann",
    )


async def add(store: Store, invitation: Invitation, *, direct: bool = False, additions: int = 100) -> str:
    """`Memberships.add` with nothing over yet."""
    return await store.memberships.add(invitation, direct=direct, additions=additions, since=0.0)


async def mine(store: Store, user: str, since: float = 0.0) -> list[ShownInvitation]:
    """A user's open invitations."""
    return await store.memberships.invitations("a", user, since=since, before=None, before_id="", limit=200)


class TestInvitations:
    """From the question to its end."""

    async def test_a_user_is_a_member_only_by_accepting(self, store: Store) -> None:
        """Invited, shown, accepted once; no member before that."""
        await store.threads.create(thread("t1"))
        assert await add(store, asked("bob")) == "invited"
        assert await store.threads.role("a", "t1", "bob") is None
        shown = ShownInvitation(
            thread_id="t1", title="T t1", invited_by="ann", inviter_name="Ann", created_at=10.0
        )
        assert await mine(store, "bob") == [shown]
        assert [one.user_id for one in await store.memberships.invited("a", "t1", since=0.0)] == ["bob"]
        accept = store.memberships.accept
        assert await accept("a", "t1", "bob", now=11.0, since=0.0) == "joined"
        assert await accept("a", "t1", "bob", now=11.0, since=0.0) == "present"
        assert await store.threads.role("a", "t1", "bob") == "member"
        assert await mine(store, "bob") == []
        assert await accept("a", "t1", "eve", now=11.0, since=0.0) == "absent"

    async def test_the_outcomes_of_add(self, store: Store) -> None:
        """Each once; a repeat counts nothing."""
        await store.threads.create(thread("t1"))
        assert await add(store, asked("bob", "t9")) == "absent"
        assert await add(store, asked("ann")) == "present"
        assert await add(store, asked("bob")) == "invited"
        assert await add(store, asked("bob")) == "pending"
        assert await add(store, asked("cid", limit=2)) == "full"  # ann, and bob who was asked
        assert await add(store, asked("cid"), direct=True) == "added"
        assert await store.threads.role("a", "t1", "cid") == "member"
        assert await add(store, asked("dan"), additions=2) == "spent"
        assert await store.memberships.additions("a", "ann", 10.0) == 2
        assert await add(store, asked("dan", at=10.0 + DAY_S), additions=2) == "invited"
        assert await store.memberships.additions("a", "ann", 10.0 + DAY_S) == 1
        assert await add(store, asked("bob"), direct=True) == "added"  # the open question is answered by that
        assert await mine(store, "bob") == []

    async def test_an_invitation_is_over_after_its_time(self, store: Store) -> None:
        """Neither shown nor accepted nor in the way of a new one."""
        await store.threads.create(thread("t1"))
        assert await add(store, asked("bob", at=10.0)) == "invited"
        assert await mine(store, "bob", since=11.0) == []
        assert await store.memberships.invited("a", "t1", since=11.0) == []
        assert await store.memberships.accept("a", "t1", "bob", now=50.0, since=11.0) == "absent"
        late = asked("bob", at=50.0, limit=2)
        assert await store.memberships.add(late, direct=False, additions=9, since=11.0) == "invited"

    async def test_with_a_member_their_invitations_go(self, store: Store) -> None:
        """Those of the thread that they leave, and no others."""
        for name in ("t1", "t2"):
            await store.threads.create(thread(name))
            await add(store, asked("eve", name), direct=True)
            await add(store, asked("bob", name, by="eve"))
        await add(store, asked("cleo"))
        assert (await store.threads.remove_member("a", "t1", "eve")).outcome == "removed"
        assert [one.user_id for one in await store.memberships.invited("a", "t1", since=0.0)] == ["cleo"]
        assert [one.thread_id for one in await mine(store, "bob")] == ["t2"]
        assert await store.memberships.accept("a", "t1", "bob", now=12.0, since=0.0) == "absent"

    async def test_withdrawing(self, store: Store) -> None:
        """Once; it then is as if it had never been."""
        await store.threads.create(thread("t1"))
        await add(store, asked("bob"))
        assert await store.memberships.withdraw("a", "t1", "bob") == asked("bob")
        assert await store.memberships.withdraw("a", "t1", "bob") is None
        assert await store.memberships.accept("a", "t1", "bob", now=11.0, since=0.0) == "absent"

    async def test_a_full_thread_takes_nobody_who_accepts_late(self, store: Store) -> None:
        """The member limit of the invitation holds at the end too, also for ten who accept at once."""
        await store.threads.create(thread("t1"))
        for number in range(4):
            assert await add(store, asked(f"u{number}", limit=5)) == "invited"
        await add(store, asked("direct", limit=9), direct=True)
        outcomes = await asyncio.gather(
            *(store.memberships.accept("a", "t1", f"u{n}", now=11.0, since=0.0) for n in range(4))
        )
        assert sorted(outcomes) == ["full", "joined", "joined", "joined"]

    async def test_another_tenant_has_none_of_it(self, store: Store) -> None:
        """Invitations, blocks and counts are a tenant's."""
        await store.threads.create(thread("t1"))
        await add(store, asked("bob"))
        assert await store.memberships.invited("b", "t1", since=0.0) == []
        assert await store.memberships.accept("b", "t1", "bob", now=11.0, since=0.0) == "absent"
        assert await store.memberships.withdraw("b", "t1", "bob") is None
        assert await store.memberships.additions("b", "ann", 10.0) == 0
        assert await store.memberships.owned("b", "ann") == 0

    async def test_a_deleted_threads_invitations_are_gone(self, store: Store) -> None:
        """And a new thread of the same id has none."""
        await store.threads.create(thread("t1"))
        await add(store, asked("bob"))
        assert await store.threads.delete("a", "t1") == "deleted"
        await store.threads.create(thread("t1", by="eve"))
        assert await mine(store, "bob") == []

    async def test_pages_skip_nothing_of_one_moment(self, store: Store) -> None:
        """Five invitations of one moment in pages of two."""
        for number in range(5):
            await store.threads.create(thread(f"t{number}"))
            await add(store, asked("bob", f"t{number}"))
        seen: list[str] = []
        before, last = None, ""
        while page := await store.memberships.invitations(
            "a", "bob", since=0.0, before=before, before_id=last, limit=2
        ):
            seen += [one.thread_id for one in page]
            before, last = page[-1].created_at, page[-1].thread_id
        assert seen == ["t0", "t1", "t2", "t3", "t4"]

    async def test_a_users_open_invitations_are_bounded(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A flood grows nobody's list past the bound."""
        monkeypatch.setattr("narthex.adapters.stores.sql.memberships.MAX_PENDING", 3)
        outcomes = []
        for number in range(5):
            await store.threads.create(thread(f"t{number}", by=f"owner{number}"))
            outcomes.append(await add(store, asked("bob", f"t{number}", by=f"owner{number}")))
        assert outcomes == ["invited"] * 3 + ["crowded"] * 2

    async def test_ten_inviters_at_once_pass_no_limit(self, store: Store) -> None:
        """The day's additions and the thread's size hold under concurrency."""
        await store.threads.create(thread("t1"))
        outcomes = await asyncio.gather(
            *(add(store, asked(f"u{n}", limit=50), additions=4) for n in range(10))
        )
        assert sorted(outcomes) == ["invited"] * 4 + ["spent"] * 6
        outcomes = await asyncio.gather(
            *(add(store, asked(f"v{n}", by="eve", limit=8), additions=50) for n in range(10))
        )
        assert sorted(outcomes) == ["full"] * 7 + ["invited"] * 3


class TestBlocking:
    """Who wants nothing from whom."""

    async def test_a_blocked_inviter_sees_no_difference(self, store: Store) -> None:
        """Open invitations disappear for the invited user only, and new ones are not shown to them."""
        for name in ("t1", "t2"):
            await store.threads.create(thread(name))
        await add(store, asked("bob"))
        assert await store.memberships.block("a", "bob", "ann", 11.0)
        assert await mine(store, "bob") == []
        assert await store.memberships.accept("a", "t1", "bob", now=12.0, since=0.0) == "absent"
        assert await add(store, asked("bob", "t2")) == "hidden"
        assert await mine(store, "bob") == []
        assert [one.user_id for one in await store.memberships.invited("a", "t2", since=0.0)] == ["bob"]
        assert await store.memberships.withdraw("a", "t2", "bob", hidden=False) is None
        assert await store.memberships.additions("a", "ann", 10.0) == 2
        assert await add(store, asked("bob", "t1"), direct=True) == "blocked"
        assert await store.threads.role("a", "t1", "bob") is None

    async def test_unblocking(self, store: Store) -> None:
        """Listed, idempotent, undone."""
        await store.threads.create(thread("t1"))
        for _ in range(2):
            assert await store.memberships.block("a", "bob", "ann", 11.0)
        assert await store.memberships.blocked("a", "bob") == ["ann"]
        for _ in range(2):
            await store.memberships.unblock("a", "bob", "ann")
        assert await store.memberships.blocked("a", "bob") == []
        assert await add(store, asked("bob")) == "invited"

    async def test_an_invitation_that_is_not_shown_stands_in_nobodys_way(self, store: Store) -> None:
        """Another member's takes its place, and its inviter's own after the block; a blocked one's does not."""
        await store.threads.create(thread("t1"))
        await store.memberships.block("a", "bob", "ann", 11.0)
        await store.memberships.block("a", "bob", "eve", 11.0)
        assert await add(store, asked("bob")) == "hidden"
        assert await add(store, asked("bob", by="eve")) == "pending"
        assert await add(store, asked("bob", by="cleo"), additions=0) == "spent"
        assert await add(store, asked("bob", by="cleo")) == "invited"
        assert [one.invited_by for one in await mine(store, "bob")] == ["cleo"]
        assert await add(store, asked("bob", by="dan")) == "pending"
        assert await store.memberships.withdraw("a", "t1", "bob") is not None
        assert await add(store, asked("bob")) == "hidden"
        await store.memberships.unblock("a", "bob", "ann")
        assert await add(store, asked("bob")) == "invited"
        assert await store.memberships.accept("a", "t1", "bob", now=12.0, since=0.0) == "joined"

    async def test_blocks_are_bounded(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """One more than the bound is refused; a repeat of an old one is not."""
        monkeypatch.setattr("narthex.adapters.stores.sql.memberships.MAX_BLOCKED", 2)
        assert port.MAX_BLOCKED > 2
        outcomes = [await store.memberships.block("a", "bob", name, 1.0) for name in ("x", "y", "z", "x")]
        assert outcomes == [True, True, False, True]


class TestThreadsOfAUser:
    """How many threads a user owns, and reading one from its beginning."""

    async def test_threads_at_the_limit(self, store: Store) -> None:
        """N are made, also at once; the N+1st raises and inserts nothing; an id that exists is no new thread."""
        outcomes = await asyncio.gather(
            *(store.threads.create(thread(f"t{n}"), limit=3) for n in range(6)), return_exceptions=True
        )
        refused = [one for one in outcomes if isinstance(one, ClientError)]
        assert ([one for one in outcomes if one is True], len(refused)) == ([True] * 3, 3)
        assert {(one.code, one.number) for one in refused} == {("threads_limit", 429)}
        assert await store.memberships.owned("a", "ann") == 3
        there = (await store.threads.list_for("a", "ann", before=None, limit=9))[0]
        assert not await store.threads.create(there, limit=3)
        assert await store.threads.create(thread("other", by="bob"), limit=3)
        assert await store.threads.create(thread("no-limit"))

    async def test_messages_after(self, store: Store) -> None:
        """Oldest first in pages, none twice and none missing, nothing that is newer than asked for."""
        await store.threads.create(thread("t1"))
        wrote = [
            Message(
                message_id=f"m{n}",
                thread_id="t1",
                role="user",
                author="ann",
                content="x",
                created_at=2.0 - n // 5,  # a clock that goes backwards: the order is the log's
            )
            for n in range(12)
        ]
        await store.threads.add_messages("a", wrote, [Position(n + 1, "e") for n in range(12)])
        read: list[Message] = []
        last = ""
        while page := await store.threads.messages_after("a", "t1", after_id=last, until_id="m9", limit=3):
            read += page
            last = page[-1].message_id
        assert read == wrote[:10]
        later = await store.threads.messages_after("a", "t1", after_id="m4", until_id="gone", limit=100)
        assert later == wrote[5:]
        assert (
            len(await store.threads.messages_after("a", "t1", after_id="gone", until_id="", limit=100)) == 12
        )
        assert await store.threads.messages_after("b", "t1", after_id="", until_id="", limit=9) == []
