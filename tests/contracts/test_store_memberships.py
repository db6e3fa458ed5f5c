"""The contract of `ports/memberships.py`, run by every engine."""

from __future__ import annotations

import asyncio

import pytest

from narthex.adapters.stores.sql.operation import Operation
from narthex.adapters.stores.sql.threads import SqlThreads
from narthex.errors import ClientError
from narthex.ports import memberships as port
from narthex.ports.broker import Position
from narthex.ports.memberships import Invitation, Joined, LinkedThread, ShownInvitation, ThreadLink
from narthex.ports.store import Store
from narthex.ports.threads import Departure, Message, Thread, ThreadMember

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
    """`Memberships.add` without expired invitations."""
    return await store.memberships.add(invitation, direct=direct, additions=additions, since=0.0)


async def take_in(store: Store, *users: str) -> None:
    """Make them members of `t1`, without an inviter."""
    for user in users:
        member = ThreadMember(user_id=user, role="member", joined_at=1.0)
        assert await store.threads.add_member("a", "t1", member, limit=None) == "added"


async def mine(store: Store, user: str, since: float = 0.0) -> list[ShownInvitation]:
    """A user's open invitations."""
    return await store.memberships.invitations("a", user, since=since, before=None, before_id="", limit=200)


class TestInvitations:
    """Invitations from creation to end."""

    async def test_a_user_is_a_member_only_by_accepting(self, store: Store) -> None:
        """Invited, listed, accepted once; not a member before that."""
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
        assert await add(store, asked("cid", limit=2)) == "full"  # ann, and bob who was invited
        assert await add(store, asked("cid"), direct=True) == "added"
        assert await store.threads.role("a", "t1", "cid") == "member"
        assert await add(store, asked("dan"), additions=2) == "spent"
        assert await store.memberships.additions("a", "ann", 10.0) == 2
        assert await add(store, asked("dan", at=10.0 + DAY_S), additions=2) == "invited"
        assert await store.memberships.additions("a", "ann", 10.0 + DAY_S) == 1
        assert await add(store, asked("bob"), direct=True) == "added"  # that answers the open invitation
        assert await mine(store, "bob") == []

    async def test_an_invitation_is_over_after_its_time(self, store: Store) -> None:
        """It is not listed, cannot be accepted, and does not prevent a new one."""
        await store.threads.create(thread("t1"))
        assert await add(store, asked("bob", at=10.0)) == "invited"
        assert await mine(store, "bob", since=11.0) == []
        assert await store.memberships.invited("a", "t1", since=11.0) == []
        assert await store.memberships.accept("a", "t1", "bob", now=50.0, since=11.0) == "absent"
        late = asked("bob", at=50.0, limit=2)
        assert await store.memberships.add(late, direct=False, additions=9, since=11.0) == "invited"

    async def test_with_a_member_their_invitations_go(self, store: Store) -> None:
        """The invitations of the thread that they leave, and no others."""
        for name in ("t1", "t2"):
            await store.threads.create(thread(name))
            await add(store, asked("eve", name), direct=True)
            await add(store, asked("bob", name, by="eve"))
        await add(store, asked("cleo"))
        await store.memberships.block("a", "dan", "eve", 9.0)
        assert await add(store, asked("dan", by="eve")) == "hidden"
        left = await store.threads.remove_member("a", "t1", "eve")
        assert (left.outcome, left.withdrawn) == ("removed", ("bob",))
        assert [one.user_id for one in await store.memberships.invited("a", "t1", since=0.0)] == ["cleo"]
        assert [one.thread_id for one in await mine(store, "bob")] == ["t2"]
        assert await store.memberships.accept("a", "t1", "bob", now=12.0, since=0.0) == "absent"

    async def test_who_is_no_member_adds_nobody(self, store: Store) -> None:
        """The write itself checks: the caller's earlier read may be outdated."""
        await store.threads.create(thread("t1"))
        await add(store, asked("eve"), direct=True)
        await store.threads.remove_member("a", "t1", "eve")
        for direct in (False, True):
            assert await add(store, asked("bob", by="eve"), direct=direct) == "absent"
        assert await mine(store, "bob") == []
        assert await store.threads.role("a", "t1", "bob") is None
        assert await store.memberships.additions("a", "eve", 10.0) == 0

    @pytest.mark.parametrize("removal_first", [True, False])
    async def test_an_invitation_under_way_ends_with_its_inviter(
        self, store: Store, removal_first: bool
    ) -> None:
        """Removal and invitations at once, in either order: no invitation of the removed user stays open."""
        for number in range(10):
            name = f"t{number}"
            await store.threads.create(thread(name))
            await add(store, asked("eve", name), direct=True)
            invitations = [add(store, asked(f"u{user}", name, by="eve", limit=20)) for user in range(4)]
            removal = store.threads.remove_member("a", name, "eve")
            calls = [removal, *invitations] if removal_first else [*invitations, removal]
            outcomes = await asyncio.gather(*calls)
            assert {one for one in outcomes if isinstance(one, str)} <= {"invited", "absent"}
            assert await store.memberships.invited("a", name, since=0.0) == []

    async def test_an_inviter_withdraws_only_their_own(self, store: Store) -> None:
        """`by` is a condition of the deletion; an owner can withdraw every invitation of the thread."""
        await store.threads.create(thread("t1"))
        await take_in(store, "eve", "cleo")
        for by in ("eve", "ann"):
            await add(store, asked("bob", by="eve"))
            assert await store.memberships.withdraw("a", "t1", "bob", by="cleo") is None
            assert await store.memberships.withdraw("a", "t1", "bob", by=by) == asked("bob", by="eve")

    async def test_withdrawing(self, store: Store) -> None:
        """Once; afterwards it is as if it never existed."""
        await store.threads.create(thread("t1"))
        await add(store, asked("bob"))
        assert await store.memberships.withdraw("a", "t1", "bob") == asked("bob")
        assert await store.memberships.withdraw("a", "t1", "bob") is None
        assert await store.memberships.accept("a", "t1", "bob", now=11.0, since=0.0) == "absent"

    async def test_a_full_thread_takes_nobody_who_accepts_late(self, store: Store) -> None:
        """The member limit applies at acceptance too, also for ten that accept at once."""
        await store.threads.create(thread("t1"))
        for number in range(4):
            assert await add(store, asked(f"u{number}", limit=5)) == "invited"
        await add(store, asked("direct", limit=9), direct=True)
        outcomes = await asyncio.gather(
            *(store.memberships.accept("a", "t1", f"u{n}", now=11.0, since=0.0) for n in range(4))
        )
        assert sorted(outcomes) == ["full", "joined", "joined", "joined"]

    async def test_another_tenant_has_none_of_it(self, store: Store) -> None:
        """Invitations, blocks and counts belong to one tenant."""
        await store.threads.create(thread("t1"))
        await add(store, asked("bob"))
        assert await store.memberships.invited("b", "t1", since=0.0) == []
        assert await store.memberships.accept("b", "t1", "bob", now=11.0, since=0.0) == "absent"
        assert await store.memberships.withdraw("b", "t1", "bob") is None
        assert await store.memberships.additions("b", "ann", 10.0) == 0
        assert await store.memberships.owned("b", "ann") == 0

    async def test_a_deleted_threads_invitations_are_gone(self, store: Store) -> None:
        """A new thread with the same id has none of them."""
        await store.threads.create(thread("t1"))
        await add(store, asked("bob"))
        assert await store.threads.delete("a", "t1") == "deleted"
        await store.threads.create(thread("t1", by="eve"))
        assert await mine(store, "bob") == []

    async def test_pages_skip_nothing_of_one_moment(self, store: Store) -> None:
        """Five invitations with the same time in pages of two."""
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
        """A flood cannot grow a user's list past the limit."""
        monkeypatch.setattr("narthex.adapters.stores.sql.memberships.MAX_PENDING", 3)
        outcomes = []
        for number in range(5):
            await store.threads.create(thread(f"t{number}", by=f"owner{number}"))
            outcomes.append(await add(store, asked("bob", f"t{number}", by=f"owner{number}")))
        assert outcomes == ["invited"] * 3 + ["crowded"] * 2

    async def test_ten_inviters_at_once_pass_no_limit(self, store: Store) -> None:
        """The daily additions and the thread's size hold under concurrency."""
        await store.threads.create(thread("t1"))
        await take_in(store, "eve")
        outcomes = await asyncio.gather(
            *(add(store, asked(f"u{n}", limit=50), additions=4) for n in range(10))
        )
        assert sorted(outcomes) == ["invited"] * 4 + ["spent"] * 6
        outcomes = await asyncio.gather(
            *(add(store, asked(f"v{n}", by="eve", limit=9), additions=50) for n in range(10))
        )
        assert sorted(outcomes) == ["full"] * 7 + ["invited"] * 3


class TestActingUsers:
    """The acting user's role is a condition of the write itself, not of an earlier read."""

    async def test_only_members_rename_and_only_owners_do_the_rest(self, store: Store) -> None:
        """A non-member changes nothing, a member the title, an owner everything."""
        await store.threads.create(thread("t1"))
        await take_in(store, "bob", "cid")
        threads = store.threads
        assert not await threads.rename("a", "t1", "By a stranger", 5.0, by="eve")
        assert await threads.rename("a", "t1", "By a member", 5.0, by="bob")
        for by in ("eve", "bob"):
            assert await threads.delete("a", "t1", by=by) == "absent"
            assert await threads.remove_member("a", "t1", "cid", by=by) == Departure(outcome="forbidden")
        found = await threads.get("a", "t1")
        assert found is not None
        assert found.title == "By a member"
        assert (await threads.remove_member("a", "t1", "cid", by="ann")).outcome == "removed"
        assert await threads.delete("a", "t1", by="ann") == "deleted"

    async def test_the_removal_of_a_member_by_another_closes_the_link(self, store: Store) -> None:
        """The removed user could rejoin by the link; when a member leaves, it stays open."""
        await store.threads.create(thread("t1"))
        await take_in(store, "bob", "cid")
        assert await store.memberships.make_link(link())
        assert (await store.threads.remove_member("a", "t1", "bob")).outcome == "removed"
        assert await store.memberships.link("a", "t1", now=11.0) is not None
        assert (await store.threads.remove_member("a", "t1", "cid", by="ann")).outcome == "removed"
        assert await store.memberships.link("a", "t1", now=11.0) is None
        assert await join(store, "cid") == Joined(outcome="absent")

    @pytest.mark.parametrize("action", ["rename", "delete", "remove", "withdraw", "revoke_link"])
    async def test_an_action_that_meets_the_owners_removal_changes_nothing(
        self, store: Store, action: str
    ) -> None:
        """The removal has begun and is not committed yet: the action waits for it and is then refused."""
        threads, memberships = store.threads, store.memberships
        await threads.create(thread("t1"))
        await take_in(store, "bob", "cid")
        await threads.add_member(
            "a", "t1", ThreadMember(user_id="zoe", role="owner", joined_at=1.0), limit=None
        )
        await add(store, asked("dan", by="bob"))
        assert await memberships.make_link(link(by="zoe"))

        async def state() -> tuple[object, ...]:
            found = await threads.get("a", "t1")
            members = {member.user_id for member in await threads.members("a", "t1")} - {"ann"}
            invited = [one.user_id for one in await memberships.invited("a", "t1", since=0.0)]
            return found and found.title, members, invited, await memberships.link("a", "t1", now=11.0)

        before = await state()
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def departing() -> Operation[Departure]:
            departure: Departure = yield from vars(SqlThreads.remove_member)["__wrapped__"](
                threads, "a", "t1", "ann"
            )
            loop.call_soon_threadsafe(begun.set)
            if vars(threads)["_dialect"].lock is not None:  # others may write meanwhile
                yield "SELECT pg_sleep(0.3)::text", ()
            return departure

        leaving = asyncio.create_task(vars(threads)["_engine"].write(departing()))
        await begun.wait()
        outcome: object
        if action == "rename":
            outcome = await threads.rename("a", "t1", "Changed", 5.0, by="ann")
        elif action == "delete":
            outcome = await threads.delete("a", "t1", by="ann") == "deleted"
        elif action == "remove":
            outcome = (await threads.remove_member("a", "t1", "cid", by="ann")).outcome == "removed"
        elif action == "withdraw":
            outcome = await memberships.withdraw("a", "t1", "dan", by="ann")
        else:
            outcome = await memberships.revoke_link("a", "t1", by="ann")
        assert not outcome
        assert (await leaving).outcome == "removed"
        assert await state() == before


class TestBlocking:
    """Blocks between users."""

    async def test_a_blocked_inviter_sees_no_difference(self, store: Store) -> None:
        """Open invitations disappear for the invited user only, and new ones are not shown to that user."""
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
        """Another member's invitation takes its place, and its inviter's own after the unblock; a blocked inviter's
        does not.
        """
        await store.threads.create(thread("t1"))
        await take_in(store, "eve", "cleo", "dan")
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
        """One more than the limit is refused; a repeat of an old one is not."""
        monkeypatch.setattr("narthex.adapters.stores.sql.memberships.MAX_BLOCKED", 2)
        assert port.MAX_BLOCKED > 2
        outcomes = [await store.memberships.block("a", "bob", name, 1.0) for name in ("x", "y", "z", "x")]
        assert outcomes == [True, True, False, True]


def link(
    digest: str = "d1",
    *,
    by: str = "ann",
    at: float = 10.0,
    until: float = 20.0,
    limit: int = 5,
    additions: int = 100,
) -> ThreadLink:
    """A link to t1."""
    return ThreadLink(
        thread_id="t1",
        tenant="a",
        digest=digest,
        created_by=by,
        creator_name="Ann",
        created_at=at,
        expires_at=until,
        member_limit=limit,
        additions=additions,
    )


async def join(
    store: Store, user: str, digest: str = "d1", *, now: float = 11.0, tenant: str = "a"
) -> Joined:
    """`Memberships.join_by_link` without expired invitations."""
    return await store.memberships.join_by_link(tenant, digest, user, since=0.0, now=now)


class TestLinks:
    """A thread's link, from creation to end."""

    async def test_a_link_is_shown_and_joined(self, store: Store) -> None:
        """Viewing does not join; joining works once and counts as an addition by the creator."""
        await store.threads.create(thread("t1"))
        assert await store.memberships.make_link(link())
        assert await store.memberships.link("a", "t1", now=11.0) == link()
        expected = LinkedThread(
            thread_id="t1",
            title="T t1",
            created_by="ann",
            creator_name="Ann",
            members=1,
            expires_at=20.0,
            role="",
        )
        assert await store.memberships.linked("a", "d1", "bob", now=11.0) == expected
        assert await store.threads.role("a", "t1", "bob") is None
        assert await join(store, "bob") == Joined(outcome="joined", thread_id="t1")
        assert await join(store, "bob") == Joined(outcome="present", thread_id="t1")
        assert await store.threads.role("a", "t1", "bob") == "member"
        assert await store.memberships.additions("a", "ann", 11.0) == 1
        found = await store.memberships.linked("a", "d1", "bob", now=11.0)
        assert found is not None
        assert (found.role, found.members) == ("member", 2)

    async def test_what_is_not_open_is_absent(self, store: Store) -> None:
        """Unknown, expired, replaced, revoked, another tenant's, a former owner's, a deleted thread's: the same
        answer.
        """
        await store.threads.create(thread("t1"))
        await store.memberships.make_link(link())

        async def absent(digest: str = "d1", *, now: float = 11.0, tenant: str = "a") -> bool:
            shown = await store.memberships.linked(tenant, digest, "bob", now=now)
            joined = await join(store, "bob", digest, now=now, tenant=tenant)
            return shown is None and joined == Joined(outcome="absent")

        assert await absent("d9")
        assert await absent(now=20.0)
        assert await store.memberships.link("a", "t1", now=20.0) is None
        assert await absent(tenant="b")
        assert not await store.memberships.revoke_link("b", "t1", by="ann")
        await store.memberships.make_link(link("d2"))
        assert await absent("d1")
        assert not await store.memberships.revoke_link("a", "t1", by="bob")
        assert await store.memberships.revoke_link("a", "t1", by="ann")
        assert not await store.memberships.revoke_link("a", "t1", by="ann")
        assert await absent("d2")

        await store.memberships.make_link(link("d3"))
        await add(store, asked("cid"), direct=True)
        await store.threads.remove_member("a", "t1", "ann")  # cid owns it now
        assert await absent("d3")
        assert await store.memberships.link("a", "t1", now=11.0) is None
        assert not await store.memberships.make_link(link("d4"))
        assert await store.memberships.make_link(link("d5", by="cid"))
        assert await store.threads.delete("a", "t1") == "deleted"
        await store.threads.create(thread("t1", by="cid"))
        assert await absent("d5")
        assert not await store.memberships.make_link(link("d6", by="eve"))

    async def test_a_link_is_of_no_later_thread_of_the_same_id(self, store: Store) -> None:
        """A program of the version before deletes a thread and leaves its link: a new thread does not inherit it."""

        def forget() -> Operation[None]:
            yield "DELETE FROM members WHERE thread_id = ?", ("t1",)
            yield "DELETE FROM threads WHERE thread_id = ?", ("t1",)

        await store.threads.create(thread("t1"))
        await store.memberships.make_link(link(until=90.0))
        await vars(store.memberships)["_engine"].write(forget())
        await store.threads.create(thread("t1", at=50.0))
        assert await join(store, "bob", now=51.0) == Joined(outcome="absent")

    async def test_a_clock_that_is_behind_makes_a_link_that_is_open(self, store: Store) -> None:
        """A link is never older than its thread."""
        await store.threads.create(thread("t1", at=50.0))
        assert await store.memberships.make_link(link(at=10.0, until=90.0))
        found = await store.memberships.link("a", "t1", now=51.0)
        assert found is not None
        assert found.created_at == 50.0
        assert (await join(store, "bob", now=51.0)).outcome == "joined"

    async def test_limits_of_the_makers_plan(self, store: Store) -> None:
        """Members and open invitations of others; additions of the day; ten at once exceed neither."""
        await store.threads.create(thread("t1"))
        await add(store, asked("bob"))
        await add(store, asked("cid"))
        await store.memberships.make_link(link(limit=3))
        assert await join(store, "dan") == Joined(outcome="full")
        assert await join(store, "bob") == Joined(outcome="joined", thread_id="t1", invited=True)
        assert await mine(store, "bob") == []
        await store.memberships.make_link(link(limit=50, additions=6))
        outcomes = [one.outcome for one in await asyncio.gather(*(join(store, f"u{n}") for n in range(10)))]
        assert sorted(outcomes) == ["joined"] * 3 + ["spent"] * 7
        await store.memberships.make_link(link(limit=9))
        outcomes = [one.outcome for one in await asyncio.gather(*(join(store, f"v{n}") for n in range(10)))]
        assert sorted(outcomes) == ["full"] * 7 + ["joined"] * 3

    async def test_blocks_hold_for_links(self, store: Store) -> None:
        """A user whom the creator has blocked finds no link; one who has blocked the creator is not added by it."""
        await store.threads.create(thread("t1"))
        await store.memberships.make_link(link())
        await store.memberships.block("a", "ann", "eve", 11.0)
        assert await store.memberships.linked("a", "d1", "eve", now=11.0) is None
        assert await join(store, "eve") == Joined(outcome="absent")
        await store.memberships.block("a", "bob", "ann", 11.0)
        assert await join(store, "bob") == Joined(outcome="blocking")
        await store.memberships.unblock("a", "bob", "ann")
        assert (await join(store, "bob")).outcome == "joined"

    async def test_a_thread_that_is_past_its_limit_has_no_link(self, store: Store) -> None:
        """It is as absent as a deleted one."""
        await store.threads.create(thread("t1"), plan="free")
        await store.memberships.make_link(link())
        kept = {"free": 5.0}
        assert await store.memberships.linked("a", "d1", "bob", now=11.0, kept=kept) is None
        joined = await store.memberships.join_by_link("a", "d1", "bob", since=0.0, now=11.0, kept=kept)
        assert joined == Joined(outcome="absent")


class TestThreadsOfAUser:
    """The number of threads that a user owns, and reading one from its beginning."""

    async def test_threads_at_the_limit(self, store: Store) -> None:
        """N are created, also at once; the N+1st raises and inserts nothing; an existing id is not a new thread."""
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
        """Oldest first in pages, none twice and none missing, none newer than requested."""
        await store.threads.create(thread("t1"))
        wrote = [
            Message(
                message_id=f"m{n}",
                thread_id="t1",
                role="user",
                author="ann",
                content="x",
                created_at=2.0 - n // 5,  # a clock that goes backwards: the log's order counts
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
