"""Item 12: other users cannot fill a user's list of threads. Threads and additions are limited, users are asked
first.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narthex.testing import Running, gateway
from tests.app.test_commands import Raw, client


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(tmp_path) as found:
        yield found


async def failed(one: Raw, method: str, **params: Any) -> tuple[int, str]:
    """The error of a call."""
    reply = await one.call("rpc", method=method, data=params)
    error = reply["error"]
    return error["code"], error["message"].partition(":")[0]


async def notice(one: Raw, name: str) -> dict[str, Any]:
    """The next notice with this name."""
    while True:
        data = (await one.push("pub"))["pub"]["data"]
        if data["name"] == name:
            value: dict[str, Any] = data["value"]
            return value


async def thread_of(one: Raw, title: str = "Ours") -> str:
    return str((await one.rpc("thread.create", title=title))["thread_id"])


async def test_a_flood_of_additions_reaches_no_list(running: Running) -> None:
    """A free user could add a stranger to 3,964 threads in 12 s; now 20 invitations a day, and no thread."""
    eve, victim = await client(running, "eve", plan="free"), await client(running, "victim")
    outcomes: list[object] = []
    for number in range(30):
        thread = await thread_of(eve, f"spam {number}")
        reply = await eve.call(
            "rpc", method="thread.members.add", data={"thread_id": thread, "user_id": "victim"}
        )
        outcomes.append(reply.get("error", {}).get("code") or reply["rpc"]["data"]["state"])
    assert outcomes == ["invited"] * 20 + [429] * 10
    assert (await victim.rpc("thread.list"))["threads"] == []
    limits = await eve.rpc("limits")
    assert limits["additions_per_day"] == {"limit": 20, "used": 20}
    assert limits["threads"] == {"limit": 200, "used": 30}
    await victim.rpc("user.block", user_id="eve")
    assert (await victim.rpc("thread.invitations"))["invitations"] == []


async def test_asking_accepting_and_what_each_device_is_told(running: Running) -> None:
    """The invited user's devices are notified, the membership begins with the answer, then all members are notified."""
    ada, bob = await client(running, "ada", name="Ada", plan="early"), await client(running, "bob")
    phone = await client(running, "bob")
    thread = await thread_of(ada)
    assert await ada.rpc("thread.members.add", thread_id=thread, user_id="bob") == {"state": "invited"}
    assert await ada.rpc("thread.members.add", thread_id=thread, user_id="bob") == {"state": "invited"}
    told = await notice(bob, "narthex.thread_invited")
    assert told == {"threadId": thread, "title": "Ours", "by": "ada", "name": "Ada"}
    assert await failed(bob, "thread.get", thread_id=thread) == (404, "thread_not_found")
    reply = await bob.call("subscribe", channel=f"thread:{thread}")
    assert reply["error"]["code"] == 103
    shown = (await bob.rpc("thread.invitations"))["invitations"]
    assert [(one["thread_id"], one["title"], one["invited_by"], one["inviter_name"]) for one in shown] == [
        (thread, "Ours", "ada", "Ada")
    ]
    invited = (await ada.rpc("thread.get", thread_id=thread))["invited"]
    assert [(one["user_id"], one["invited_by"]) for one in invited] == [("bob", "ada")]
    assert await bob.rpc("thread.invitation.accept", thread_id=thread) == {"thread_id": thread}
    assert await bob.rpc("thread.invitation.accept", thread_id=thread) == {"thread_id": thread}
    assert await notice(phone, "narthex.invitation_closed") == {"threadId": thread, "state": "accepted"}
    assert await notice(ada, "narthex.thread_added") == {"threadId": thread, "userId": "bob", "by": "bob"}
    found = await ada.rpc("thread.get", thread_id=thread)
    assert [member["user_id"] for member in found["members"]] == ["ada", "bob"]
    assert found["invited"] == []
    assert "subscribe" in await bob.call("subscribe", channel=f"thread:{thread}")
    assert await ada.rpc("thread.members.add", thread_id=thread, user_id="bob") == {"state": "member"}


async def test_declining_and_taking_back(running: Running) -> None:
    """Both end the invitation; a member who is neither owner nor inviter may not withdraw it."""
    ada, bob = await client(running, "ada", plan="early"), await client(running, "bob", plan="early")
    cleo = await client(running, "cleo")
    thread = await thread_of(ada)
    for user in ("bob", "cleo"):
        await ada.rpc("thread.members.add", thread_id=thread, user_id=user)
    await bob.rpc("thread.invitation.accept", thread_id=thread)
    assert await cleo.rpc("thread.invitation.decline", thread_id=thread) == {}
    assert await failed(cleo, "thread.invitation.decline", thread_id=thread) == (404, "invitation_not_found")
    assert await failed(cleo, "thread.invitation.accept", thread_id=thread) == (404, "invitation_not_found")
    await ada.rpc("thread.members.add", thread_id=thread, user_id="cleo")
    assert await failed(bob, "thread.members.remove", thread_id=thread, user_id="cleo") == (403, "not_owner")
    await bob.rpc("thread.members.add", thread_id=thread, user_id="dan")
    assert await bob.rpc("thread.members.remove", thread_id=thread, user_id="dan") == {}  # the inviter
    assert await ada.rpc("thread.members.remove", thread_id=thread, user_id="cleo") == {}  # the owner
    closed = [(await notice(cleo, "narthex.invitation_closed"))["state"] for _ in range(2)]
    assert closed == ["declined", "withdrawn"]
    assert await failed(cleo, "thread.invitation.accept", thread_id=thread) == (404, "invitation_not_found")


async def test_leaving_and_declining_many_at_once(running: Running) -> None:
    """One call each; failures are named with their error."""
    ada, bob = await client(running, "ada", plan="mid"), await client(running, "bob")
    threads = [await thread_of(ada, str(number)) for number in range(6)]
    for thread in threads:
        await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    for thread in threads[:3]:
        await bob.rpc("thread.invitation.accept", thread_id=thread)
    own = await thread_of(bob)
    left = await bob.rpc("thread.leave", thread_ids=[*threads[:3], own, "no-such-thread"])
    assert left == {
        "left": threads[:3],
        "failed": {own: "last_member", "no-such-thread": "thread_not_found"},
    }
    declined = await bob.rpc("thread.invitation.decline", thread_ids=threads)
    assert declined == {
        "declined": threads[3:],
        "failed": dict.fromkeys(threads[:3], "invitation_not_found"),
    }
    assert [one["thread_id"] for one in (await bob.rpc("thread.list"))["threads"]] == [own]
    assert (await failed(bob, "thread.leave", thread_ids=["x"] * 201))[0] == 400
    assert (await failed(bob, "thread.leave"))[0] == 400
    assert (await failed(bob, "thread.leave", thread_id=own, thread_ids=[own]))[0] == 400
    assert await failed(bob, "thread.leave", thread_id=own) == (409, "last_member")


async def test_blocking_is_silent_and_can_be_undone(running: Running) -> None:
    """The inviter gets the same answer, the invited user is not notified; `user.blocked` lists the block."""
    eve, bob = await client(running, "eve", plan="mid"), await client(running, "bob")
    await bob.rpc("user.block", user_id="eve")
    assert await bob.rpc("user.blocked") == {"users": ["eve"]}
    thread = await thread_of(eve)
    assert await eve.rpc("thread.members.add", thread_id=thread, user_id="bob") == {"state": "invited"}
    assert [one["user_id"] for one in (await eve.rpc("thread.get", thread_id=thread))["invited"]] == ["bob"]
    assert (await bob.rpc("thread.invitations"))["invitations"] == []
    assert await failed(bob, "user.block", user_id="bob") == (400, "bad_params")
    await bob.rpc("user.unblock", user_id="eve")
    assert await bob.rpc("user.blocked") == {"users": []}
    other = await thread_of(eve, "Second")
    await eve.rpc("thread.members.add", thread_id=other, user_id="bob")
    assert (await notice(bob, "narthex.thread_invited"))["threadId"] == other  # and none for the first one


async def test_a_tenant_may_add_members_directly(tmp_path: Path) -> None:
    """`direct_membership` names the tenants; in others users are asked; a user who blocked the adder is not added."""
    async with gateway(tmp_path, direct_membership=("school",)) as running:
        ada = await client(running, "ada", tenant="school", plan="mid")
        bob = await client(running, "bob", tenant="school")
        thread = await thread_of(ada)
        assert await ada.rpc("thread.members.add", thread_id=thread, user_id="bob") == {"state": "member"}
        assert [one["thread_id"] for one in (await bob.rpc("thread.list"))["threads"]] == [thread]
        await bob.rpc("thread.leave", thread_id=thread)
        await bob.rpc("user.block", user_id="ada")
        assert await failed(ada, "thread.members.add", thread_id=thread, user_id="bob") == (403, "blocked")
        eve = await client(running, "eve", tenant="other", plan="mid")
        theirs = await thread_of(eve)
        assert await eve.rpc("thread.members.add", thread_id=theirs, user_id="x") == {"state": "invited"}


async def test_a_blocked_member_keeps_nobody_elses_invitation_from_its_user(running: Running) -> None:
    """A blocked member's earlier invitation would take the only place: ada's replaces it, and so does one after the
    unblock.
    """
    eve, bob = await client(running, "eve", plan="early"), await client(running, "bob")
    ada = await client(running, "ada", plan="early")
    thread = await thread_of(eve)
    await eve.rpc("thread.members.add", thread_id=thread, user_id="ada")
    await ada.rpc("thread.invitation.accept", thread_id=thread)
    await bob.rpc("user.block", user_id="eve")
    ask = {"thread_id": thread, "user_id": "bob"}
    assert await eve.rpc("thread.members.add", **ask) == {"state": "invited"}
    assert (await bob.rpc("thread.invitations"))["invitations"] == []
    assert await ada.rpc("thread.members.add", **ask) == {"state": "invited"}
    shown = (await bob.rpc("thread.invitations"))["invitations"]
    assert [one["invited_by"] for one in shown] == ["ada"]
    assert await eve.rpc("thread.members.add", **ask) == {"state": "invited"}  # no effect
    assert await bob.rpc("thread.invitation.decline", thread_id=thread) == {}
    # After the block has ended, a new invitation is shown.
    assert await eve.rpc("thread.members.add", **ask) == {"state": "invited"}
    await bob.rpc("user.unblock", user_id="eve")
    assert await eve.rpc("thread.members.add", **ask) == {"state": "invited"}
    assert await bob.rpc("thread.invitation.accept", thread_id=thread) == {"thread_id": thread}


async def test_a_removed_member_lets_nobody_in_afterwards(running: Running) -> None:
    """Their earlier invitations end with their membership, and the invited user's devices are notified."""
    ada, eve = await client(running, "ada", plan="early"), await client(running, "eve", plan="early")
    friend = await client(running, "friend")
    thread = await thread_of(ada)
    await ada.rpc("thread.members.add", thread_id=thread, user_id="eve")
    await eve.rpc("thread.invitation.accept", thread_id=thread)
    await eve.rpc("thread.members.add", thread_id=thread, user_id="friend")
    await ada.rpc("thread.members.remove", thread_id=thread, user_id="eve")
    assert await notice(friend, "narthex.invitation_closed") == {"threadId": thread, "state": "withdrawn"}
    assert (await friend.rpc("thread.invitations"))["invitations"] == []
    assert await failed(friend, "thread.invitation.accept", thread_id=thread) == (404, "invitation_not_found")
    assert (await ada.rpc("thread.get", thread_id=thread))["invited"] == []


async def made_link(one: Raw, thread: str, **more: Any) -> str:
    """The token of a new link."""
    return str((await one.rpc("thread.link", thread_id=thread, **more))["token"])


NO_LINK = (404, "link_not_found")


async def test_a_link_shows_what_it_is_and_joins_only_when_asked(running: Running) -> None:
    """Owner and title are shown first; joining makes a member, notifies every member, and answers an open
    invitation.
    """
    ada, bob = await client(running, "ada", name="Ada", plan="early"), await client(running, "bob")
    thread = await thread_of(ada)
    await ada.rpc("thread.members.add", thread_id=thread, user_id="bob")
    assert await ada.rpc("thread.link.get", thread_id=thread) == {"link": None}
    made = await ada.rpc("thread.link", thread_id=thread)
    shown = (await ada.rpc("thread.link.get", thread_id=thread))["link"]
    assert (shown["created_by"], shown["expires_at"]) == ("ada", made["expires_at"])
    assert 7 * 86_400 - 60 < made["expires_at"] - shown["created_at"] <= 7 * 86_400
    assert made["token"] not in str(shown)
    preview = await bob.rpc("thread.link.preview", token=made["token"])
    assert preview == {
        "title": "Ours",
        "created_by": "ada",
        "creator_name": "Ada",
        "members": 1,
        "expires_at": made["expires_at"],
        "role": "",
        "thread_id": "",
    }
    assert await failed(bob, "thread.get", thread_id=thread) == (404, "thread_not_found")
    for _ in range(2):
        assert await bob.rpc("thread.join", token=made["token"]) == {"thread_id": thread}
    assert await notice(ada, "narthex.thread_added") == {"threadId": thread, "userId": "bob", "by": "bob"}
    assert await notice(bob, "narthex.invitation_closed") == {"threadId": thread, "state": "accepted"}
    members = (await ada.rpc("thread.get", thread_id=thread))["members"]
    assert [member["user_id"] for member in members] == ["ada", "bob"]
    assert (await bob.rpc("thread.link.preview", token=made["token"]))["thread_id"] == thread
    assert (await ada.rpc("limits"))["additions_per_day"]["used"] == 2  # the invitation, and the link


async def test_wrong_revoked_and_foreign_tokens_get_one_answer(running: Running) -> None:
    """Also from a removed member, whose link ends with the removal, and from a user whom the owner has blocked."""
    ada, bob = await client(running, "ada", plan="early"), await client(running, "bob")
    foreign = await client(running, "fay", tenant="other")
    thread = await thread_of(ada)
    token = await made_link(ada, thread)
    methods = ("thread.link.preview", "thread.join")
    for method in methods:
        full = (await bob.call("rpc", method=method, data={"token": "wrong"}))["error"]
        theirs = (await foreign.call("rpc", method=method, data={"token": token}))["error"]
        assert theirs == full
        assert (full["code"], full["message"].partition(":")[0]) == NO_LINK
    assert await bob.rpc("thread.join", token=token) == {"thread_id": thread}
    await ada.rpc("thread.members.remove", thread_id=thread, user_id="bob")
    for method in methods:
        assert await failed(bob, method, token=token) == NO_LINK
    token = await made_link(ada, thread)
    await ada.rpc("user.block", user_id="bob")
    for method in methods:
        assert await failed(bob, method, token=token) == NO_LINK
    await ada.rpc("user.unblock", user_id="bob")
    await bob.rpc("user.block", user_id="ada")
    assert await failed(bob, "thread.join", token=token) == (403, "blocked")
    await bob.rpc("user.unblock", user_id="ada")
    newer = await made_link(ada, thread, days=30)
    assert await failed(bob, "thread.join", token=token) == NO_LINK
    await ada.rpc("thread.link.revoke", thread_id=thread)
    assert await failed(bob, "thread.join", token=newer) == NO_LINK
    for days in (0, 31):
        assert (await failed(ada, "thread.link", thread_id=thread, days=days))[0] == 400


async def test_only_owners_make_links_and_their_plan_bounds_them(running: Running) -> None:
    """Members and non-members neither create nor see links; the plan's thread size applies to users who join."""
    ada, bob = await client(running, "ada", plan="free"), await client(running, "bob", plan="enterprise")
    thread = await thread_of(ada)
    token = await made_link(ada, thread)
    for method in ("thread.link", "thread.link.get", "thread.link.revoke"):
        assert await failed(bob, method, thread_id=thread) == (404, "thread_not_found")
    await bob.rpc("thread.join", token=token)
    for method in ("thread.link", "thread.link.get", "thread.link.revoke"):
        assert await failed(bob, method, thread_id=thread) == (403, "not_owner")
    cleo, dan = await client(running, "cleo", plan="enterprise"), await client(running, "dan")
    await cleo.rpc("thread.join", token=token)
    assert await failed(dan, "thread.join", token=token) == (429, "members_limit")
    await cleo.rpc("thread.leave", thread_id=thread)  # leaving does not close a link
    assert await dan.rpc("thread.join", token=token) == {"thread_id": thread}
