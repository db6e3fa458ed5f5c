"""Races of `Guard.refresh`: with each other, with a token's end, with a revocation, with a client that leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import pytest_asyncio

import narthex
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Valid
from narthex.guard import Guard
from narthex.protocol.codes import REVOKED
from tests.app.handshake_harness import TableVerifier
from tests.guard.test_sockets import Echo, Server, guarded
from tests.timing import within

USER = Identity(subject="ann", tenant="default", token_id="first", permissions=("read",))


class Refreshing:
    """One socket of ann's, and the tokens that may refresh it.

    Attributes:
        verifier: knows `first`, and what a test adds with `known`; a token in `hung` waits for `arrived`.
    """

    def __init__(self, guard: Guard, app: Echo, verifier: TableVerifier) -> None:
        self.guard = guard
        self.app = app
        self.verifier = verifier

    def known(self, name: str, *, hung: bool = False, **changes: Any) -> str:
        """A token of ann's, with these changes."""
        self.verifier.verdicts[name] = Valid(
            msgspec.structs.replace(USER, token_id=name, issued_at=time.time(), **changes)
        )
        if hung:
            self.verifier.hung.add(name)
        return name

    async def connected(self, name: str = "first") -> Server:
        """A socket with the application behind it."""
        server = Server(self.guard, authorization=f"Bearer {name}")
        assert (await server.next())["type"] == "websocket.accept"
        return server

    async def refresh(self, name: str) -> Refusal | None:
        """Of the last socket."""
        return await self.guard.refresh(self.app.scopes[-1], name)

    def user(self) -> Identity:
        """The last socket's."""
        return narthex.identity(self.app.scopes[-1])


@pytest_asyncio.fixture
async def ann(tmp_path: Path) -> AsyncIterator[Refreshing]:
    """A guard whose tokens have no grace."""
    verifier, app = TableVerifier(cast("Any", None)), Echo()
    verifier.verdicts["first"] = Valid(USER)
    async with guarded(app, tmp_path, options={"token_grace_s": 0}, verifier=verifier) as guard:
        yield Refreshing(guard, app, verifier)


async def test_two_at_once_take_effect_in_their_order(ann: Refreshing) -> None:
    """The token that was given last decides, also where the one before it takes longer to verify."""
    server = await ann.connected()
    older = ann.known("older", hung=True, permissions=("read", "write"))
    newer = ann.known("newer", permissions=("read",))
    first = asyncio.create_task(ann.refresh(older))
    await asyncio.sleep(0)
    second = asyncio.create_task(ann.refresh(newer))
    await asyncio.sleep(0)
    ann.verifier.arrived.set()
    assert (await first, await second) == (None, None)
    assert ann.user().token_id == "newer"
    assert not ann.user().may("write")
    await server.end()


async def test_the_new_token_decides_rights_and_life(ann: Refreshing) -> None:
    """Wider or narrower; its end is the socket's, also where it comes sooner than the old one's."""
    server = await ann.connected()
    assert await ann.refresh(ann.known("wider", permissions=("read", "admin"))) is None
    assert ann.user().may("admin")
    assert await ann.refresh(ann.known("shorter", expires_at=time.time() + 0.3)) is None
    assert not ann.user().may("admin")
    assert await ann.refresh("unknown") is not None
    assert ann.guard._core is not None
    assert ann.guard._core.meter.counts("token_refreshes") == {
        ("connection", "ok"): 2,
        ("connection", "token_invalid"): 1,
    }
    closed = await server.next()
    assert (closed["type"], closed["code"]) == ("websocket.close", 3005)
    await asyncio.wait_for(server.task, within(5))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"subject": "bob"}, "credential_conflict"),
        ({"tenant": "other"}, "credential_conflict"),
    ],
)
async def test_another_users_token_changes_nothing(
    ann: Refreshing, changes: dict[str, Any], code: str
) -> None:
    """Another subject, and the same subject of another tenant."""
    server = await ann.connected()
    refused = await ann.refresh(ann.known("foreign", **changes))
    assert refused is not None
    assert refused.code == code
    assert ann.user() == USER
    await server.end()


async def test_a_token_that_comes_too_late(ann: Refreshing) -> None:
    """The socket's token expires while the fresh one is verified: the socket is closed, and the refresh says so."""
    ann.known("ending", expires_at=time.time() + 0.3)
    server = await ann.connected("ending")
    late = asyncio.create_task(ann.refresh(ann.known("late", hung=True)))
    assert (await server.next())["code"] == 3005
    ann.verifier.arrived.set()
    refused = await late
    assert refused is not None
    assert refused.code == "expired"
    await asyncio.wait_for(server.task, within(5))
    assert len((await ann.guard.start()).lives.registry) == 0


async def test_a_revocation_while_a_token_is_verified(ann: Refreshing) -> None:
    """A fresh token does not bring a closed socket back, and the refresh says why."""
    server = await ann.connected()
    late = asyncio.create_task(ann.refresh(ann.known("late", hung=True)))
    await asyncio.sleep(0)
    core = await ann.guard.start()
    for life in core.lives.registry:
        life.close(REVOKED)
    ann.verifier.arrived.set()
    refused = await late
    assert refused is not None
    assert refused.code == "token_revoked"
    assert (await server.next())["code"] == 3500
    await asyncio.wait_for(server.task, within(5))


async def test_a_fresh_token_that_was_revoked_meanwhile(ann: Refreshing) -> None:
    """Revoked between its verification and its effect: it is refused, and the socket keeps its old one."""
    server = await ann.connected()
    fresh = ann.known("fresh", hung=True)
    late = asyncio.create_task(ann.refresh(fresh))
    await asyncio.sleep(0)
    core = await ann.guard.start()
    identity = msgspec.structs.replace(USER, token_id=fresh)
    await core.revocations.revoke_token(identity, reason="test")
    ann.verifier.arrived.set()
    refused = await late
    assert refused is not None
    assert refused.code == "token_revoked"
    assert ann.user() == USER
    await server.end()


async def test_a_client_that_leaves_meanwhile(ann: Refreshing) -> None:
    """Its slot stays free, no timer is left, and the refresh says that the connection has ended."""
    server = await ann.connected()
    late = asyncio.create_task(ann.refresh(ann.known("late", hung=True, expires_at=time.time() + 60)))
    await asyncio.sleep(0)
    await server.end()
    ann.verifier.arrived.set()
    refused = await late
    assert refused is not None
    assert "has ended" in refused.detail
    core = await ann.guard.start()
    assert core.limiter.total == 0
    assert core.limiter.of_user(USER.user) == 0


async def test_a_refresh_while_the_guard_stops(ann: Refreshing) -> None:
    """The refusal says that the client must come back."""
    server = await ann.connected()
    late = asyncio.create_task(ann.refresh(ann.known("late", hung=True)))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(ann.guard.stop())
    await asyncio.wait_for(server.task, within(5))
    ann.verifier.arrived.set()
    refused = await late
    assert refused is not None
    assert refused.code == "draining"
    await stopping


async def test_a_refresh_does_not_put_off_the_longest_life(tmp_path: Path) -> None:
    """`max_socket_life_s` counts from the handshake, also when newer tokens come."""
    verifier, app = TableVerifier(cast("Any", None)), Echo()
    verifier.verdicts["first"] = Valid(USER)
    async with guarded(app, tmp_path, options={"max_socket_life_s": 1}, verifier=verifier) as guard:
        server = Server(guard, authorization="Bearer first")
        await server.next()
        ending = asyncio.create_task(server.next())
        while not ending.done():
            refused = await guard.refresh(app.scopes[0], "first")
            assert refused is None or refused.code == "draining"  # closed: come back
            await asyncio.sleep(0.05)
        assert (await ending)["code"] == 3011
        await asyncio.wait_for(server.task, within(5))
