"""Live connections whose credential ended: which are closed, with which code, and how often they are looked at."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from narthex.app import revocation_enforcer as module
from narthex.app.revocation_enforcer import RevocationEnforcer
from narthex.app.revocations import Revocations
from narthex.domain.identity import Identity
from narthex.protocol.codes import FORCE_RECONNECT, REVOKED, Disconnect
from tests.adapters.tokens.memory import MemoryCredentials, as_port
from tests.timing import within

NOW = 1_000_000.0


class Line:
    """A live connection; `user` empty: not proven yet."""

    def __init__(self, user: str, key_id: str = "") -> None:
        self.known_identity = Identity(subject=user, tenant="a") if user else None
        self.context = SimpleNamespace(key_id=key_id)
        self.closed: list[Disconnect] = []

    def close(self, disconnect: Disconnect) -> None:
        """As `Connection.close`."""
        self.closed.append(disconnect)


class Walks(list[Line]):
    """The registry; counts how often all connections are looked at."""

    walks = 0

    def __iter__(self) -> Any:
        self.walks += 1
        return super().__iter__()


def made(*lines: Line) -> tuple[RevocationEnforcer, Revocations, Walks]:
    """An enforcer over these connections."""
    revocations = Revocations(as_port(MemoryCredentials()), None, clock=lambda: NOW)
    registry = Walks(lines)
    loop = asyncio.get_running_loop()
    return RevocationEnforcer(cast("Any", registry), revocations, loop), revocations, registry


async def test_revoked_users_are_closed_and_no_others() -> None:
    """For good; a connection without an identity is left to its deadline."""
    ada, bob, unknown = Line("ada"), Line("bob"), Line("")
    _, revocations, _ = made(ada, bob, unknown)
    await revocations.revoke_subject("a", "ada", until=NOW + 60, reason="r")
    async with asyncio.timeout(within(5)):
        while not ada.closed:  # noqa: ASYNC110 - a timer of 0.1 s
            await asyncio.sleep(0.005)
    assert (ada.closed, bob.closed, unknown.closed) == ([REVOKED], [], [])


async def test_many_revocations_are_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand within the interval cost one walk; the next ones another."""
    monkeypatch.setattr(module, "CLOSE_EVERY_S", 0.02)
    _, revocations, registry = made(Line("ada"))
    for walks in (1, 2):
        for number in range(50):
            await revocations.revoke_subject("a", f"u{walks}-{number}", until=NOW + 60, reason="r")
        async with asyncio.timeout(within(5)):
            while registry.walks < walks:  # noqa: ASYNC110 - a timer
                await asyncio.sleep(0.001)
        assert registry.walks == walks


async def test_a_stopped_enforcer_looks_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a look that was due; a second stop is harmless."""
    monkeypatch.setattr(module, "CLOSE_EVERY_S", 0.01)
    enforcer, revocations, registry = made(Line("ada"))
    await revocations.revoke_subject("a", "ada", until=NOW + 60, reason="r")
    enforcer.stop()
    enforcer.stop()
    await asyncio.sleep(0.05)
    assert registry.walks == 0


async def test_a_withdrawn_key_sends_its_connections_for_fresh_tokens() -> None:
    """3011, at once, for those of that key; the withdrawn keys are kept for new handshakes."""
    old, new = Line("ada", "k1"), Line("bob", "k2")
    enforcer, _, _ = made(old, new)
    enforcer.withdraw(frozenset({"k1"}))
    assert (old.closed, new.closed) == ([FORCE_RECONNECT], [])
    enforcer.withdraw(frozenset({"k3"}))
    assert enforcer.withdrawn == {"k1", "k3"}
    assert old.closed == [FORCE_RECONNECT]
