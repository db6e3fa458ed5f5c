"""Links to threads in cases that need no client: guests, and an owner who is demoted meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest

from narthex.domain.identity import Identity, IdentityClass
from narthex.errors import ClientError
from tests.app.test_chat import ADA, BOB, Rig, rig

__all__ = ["rig"]

GUEST = Identity(tenant="default", subject="guest-1", identity_class=IdentityClass.GUEST)


@pytest.mark.parametrize("token", ["real", "wrong"])
async def test_a_guest_has_to_sign_in_whatever_the_token(rig: Rig, token: str) -> None:
    """The same answer for a valid token and for an invalid one."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    links = rig.memberships.links
    if token == "real":
        token, _ = await links.make(ADA, thread, 7)
    for ask in (links.preview(GUEST, token), links.join(GUEST, token)):
        with pytest.raises(ClientError) as caught:
            await ask
        assert (caught.value.code, caught.value.number) == ("sign_in_required", 403)


async def test_the_database_has_no_token(rig: Rig, tmp_path: Path) -> None:
    """A copy of the store admits no user."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    token, _ = await rig.memberships.links.make(ADA, thread, 7)
    assert await rig.memberships.links.join(BOB, token) == thread
    assert not await asyncio.to_thread(_holds, tmp_path, token.encode())
    assert await asyncio.to_thread(_holds, tmp_path, hashlib.sha256(token.encode()).hexdigest().encode())


def _holds(directory: Path, text: bytes) -> bool:
    return any(text in file.read_bytes() for file in directory.iterdir())


async def test_a_link_is_over_at_its_moment(rig: Rig) -> None:
    """A day is a day; one second earlier the link is open."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    token, expires_at = await rig.memberships.links.make(ADA, thread, 1)
    assert expires_at == rig.time + 86_400
    rig.time = expires_at - 1
    assert (await rig.memberships.links.preview(BOB, token)).created_by == "ada"
    rig.time = expires_at
    assert await rig.memberships.links.of_thread(ADA, thread) is None
    with pytest.raises(ClientError) as caught:
        await rig.memberships.links.join(BOB, token)
    assert caught.value.code == "link_not_found"


@pytest.mark.parametrize("invited", [False, True])
async def test_who_joins_by_a_link_is_told_and_so_are_the_members(rig: Rig, invited: bool) -> None:
    """Every member's devices show it; an open invitation is closed as accepted."""
    thread = (await rig.chat.create(ADA, "t")).thread_id
    token, _ = await rig.memberships.links.make(ADA, thread, 7)
    if invited:
        rig.memberships._direct = frozenset()
        await rig.memberships.add(ADA, thread, "bob")
    before = {name: len(await rig.log(f"user:{name}")) for name in ("ada", "bob")}
    assert await rig.memberships.links.join(BOB, token) == thread
    told = {
        name: [json.loads(data) for data in (await rig.log(f"user:{name}"))[count:]]
        for name, count in before.items()
    }
    added = ("narthex.thread_added", {"threadId": thread, "userId": "bob", "by": "bob"})
    closed = ("narthex.invitation_closed", {"threadId": thread, "state": "accepted"})
    assert [(one["name"], one["value"]) for one in told["ada"]] == [added]
    assert [(one["name"], one["value"]) for one in told["bob"]] == [added, *([closed] if invited else [])]
    assert await rig.memberships.links.join(BOB, token) == thread, "a second click"
