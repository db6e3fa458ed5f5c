"""RPC methods of threads over a real socket: one thread and many, pages, and the bounds of their parameters."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from narthex.app.chat import TITLE_CHARS
from narthex.app.rpc.threads import MANY
from narthex.domain.plans import MAX_LINK_DAYS
from narthex.testing import Running, gateway
from tests.app.test_commands import Raw, client


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    """A gateway where an addition needs the other user's consent."""
    async with gateway(tmp_path) as found:
        yield found


async def refused(raw: Raw, method: str, **params: Any) -> tuple[int, str]:
    """The error of a call."""
    error = (await raw.call("rpc", method=method, data=params))["error"]
    return error["code"], error["message"]


async def invited(ada: Raw, user: str, count: int) -> list[str]:
    """Threads of ada's, each with an open invitation."""
    threads = []
    for _ in range(count):
        threads.append((await ada.rpc("thread.create"))["thread_id"])
        await ada.rpc("thread.members.add", thread_id=threads[-1], user_id=user)
    return threads


async def test_invitations_are_accepted_and_declined_alone_and_together(running: Running) -> None:
    """Of many at once each is answered; those that fail are named with their error."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    threads = await invited(ada, "bob", 4)
    assert await bob.rpc("thread.invitation.accept", thread_id=threads[0]) == {"thread_id": threads[0]}
    assert await bob.rpc("thread.invitation.decline", thread_id=threads[1]) == {}
    found = await bob.rpc("thread.invitation.decline", thread_ids=[*threads[2:], "nowhere"])
    assert sorted(found["declined"]) == sorted(threads[2:])
    assert list(found["failed"]) == ["nowhere"]
    assert (await bob.rpc("thread.invitations"))["invitations"] == []
    assert [one["thread_id"] for one in (await bob.rpc("thread.list"))["threads"]] == [threads[0]]
    assert (await refused(bob, "thread.invitation.accept", thread_id=threads[1]))[0] == 404


async def test_invitations_come_in_pages(running: Running) -> None:
    """The newest first; a page begins after the row that it names."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    threads = await invited(ada, "bob", 3)
    first = (await bob.rpc("thread.invitations", limit=2))["invitations"]
    last = first[-1]
    rest = await bob.rpc("thread.invitations", before=last["created_at"], before_id=last["thread_id"])
    shown = [one["thread_id"] for one in (*first, *rest["invitations"])]
    assert shown == threads[::-1]
    assert {one["invited_by"] for one in first} == {"ada"}


async def test_a_member_leaves_one_thread_or_many(running: Running) -> None:
    """An owner's last thread and a stranger's are named as failures."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    threads = await invited(ada, "bob", 3)
    for thread in threads:
        await bob.rpc("thread.invitation.accept", thread_id=thread)
    await bob.rpc("thread.leave", thread_id=threads[0])
    left = await bob.rpc("thread.leave", thread_ids=[*threads[1:], "nowhere"])
    assert sorted(left["left"]) == sorted(threads[1:])
    assert list(left["failed"]) == ["nowhere"]
    assert (await bob.rpc("thread.list"))["threads"] == []


async def test_a_blocked_user_invites_no_more(running: Running) -> None:
    """Until they are unblocked; the list of blocked users is one's own, and oneself cannot be on it."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    await bob.rpc("user.block", user_id="ada")
    assert (await bob.rpc("user.blocked")) == {"users": ["ada"]}
    assert (await ada.rpc("user.blocked")) == {"users": []}
    await invited(ada, "bob", 1)
    assert (await bob.rpc("thread.invitations"))["invitations"] == []
    await bob.rpc("user.unblock", user_id="ada")
    assert (await bob.rpc("user.blocked")) == {"users": []}
    await invited(ada, "bob", 1)
    assert len((await bob.rpc("thread.invitations"))["invitations"]) >= 1
    assert (await refused(bob, "user.block", user_id="bob"))[0] == 400


@pytest.mark.parametrize(
    ("method", "good", "bad"),
    [
        ("thread.rename", {"title": "t" * TITLE_CHARS}, {"title": "t" * (TITLE_CHARS + 1)}),
        ("thread.rename", {"title": "t"}, {"title": ""}),
        ("thread.link", {"days": 1}, {"days": 0}),
        ("thread.link", {"days": MAX_LINK_DAYS}, {"days": MAX_LINK_DAYS + 1}),
        ("thread.get", {"limit": 1}, {"limit": 0}),
        ("thread.get", {"limit": 200}, {"limit": 201}),
        ("thread.get", {"before": 1.7e9}, {"before": 1.7e12}),
    ],
)
async def test_bounds_of_parameters(
    running: Running, method: str, good: dict[str, Any], bad: dict[str, Any]
) -> None:
    """At the bound, and one beyond: 400, with the place."""
    ada = await client(running, "ada")
    thread = (await ada.rpc("thread.create"))["thread_id"]
    await ada.rpc(method, thread_id=thread, **good)
    assert (await refused(ada, method, thread_id=thread, **bad))[0] == 400


async def test_one_thread_or_many_and_not_both(running: Running) -> None:
    """Up to 200 ids; none, both, or one too many are refused."""
    ada = await client(running, "ada")
    names = [f"t{number}" for number in range(MANY + 1)]
    for method in ("thread.leave", "thread.invitation.decline"):
        assert len((await ada.rpc(method, thread_ids=names[:-1]))["failed"]) == MANY
        wrong: list[dict[str, Any]] = [
            {}, {"thread_id": "a", "thread_ids": ["a"]}, {"thread_ids": []}, {"thread_ids": names},
        ]  # fmt: skip
        for params in wrong:
            assert (await refused(ada, method, **params))[0] == 400


async def test_a_link_is_made_shown_previewed_and_used(running: Running) -> None:
    """The preview names the thread to members only; a revoked link leads nowhere."""
    ada, bob = await client(running, "ada"), await client(running, "bob")
    thread = (await ada.rpc("thread.create", title="Plans"))["thread_id"]
    assert await ada.rpc("thread.link.get", thread_id=thread) == {"link": None}
    made = await ada.rpc("thread.link", thread_id=thread, days=3)
    shown = (await ada.rpc("thread.link.get", thread_id=thread))["link"]
    assert (shown["created_by"], shown["expires_at"]) == ("ada", made["expires_at"])
    assert shown["expires_at"] - shown["created_at"] == pytest.approx(3 * 86_400)
    preview = await bob.rpc("thread.link.preview", token=made["token"])
    assert preview.get("thread_id", "") == ""
    assert await bob.rpc("thread.join", token=made["token"]) == {"thread_id": thread}
    assert (await bob.rpc("thread.link.preview", token=made["token"]))["thread_id"] == thread
    await ada.rpc("thread.link.revoke", thread_id=thread)
    assert await ada.rpc("thread.link.get", thread_id=thread) == {"link": None}
    eve = await client(running, "eve")
    assert (await refused(eve, "thread.join", token=made["token"]))[0] == 404
