"""The admission of a guard, and the life of the sockets that it admitted, on a store that several processes share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager
from functools import partial
from itertools import count
from pathlib import Path
from uuid import uuid4

import pytest

from narthex.errors import ConfigError
from narthex.guard.core import GuardCore, guard_settings
from narthex.ports.edge import Accept, Deny
from narthex.web.tickets import issue_ticket
from tests.guard.cores import admitted, core, decide, head, token, until
from tests.services import PostgresServer, data_directory
from tests.timing import within

NewCore = Callable[[], AbstractAsyncContextManager[GuardCore]]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server."""
    with data_directory("guards") as directory:
        server = PostgresServer(directory / "data")
        server.initialise()
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def new_core(request: pytest.FixtureRequest, tmp_path: Path) -> NewCore:
    """Guards on one store: by one directory of a machine, or on several machines by one URL."""
    if request.param == "sqlite":
        return partial(core, tmp_path)
    url, numbers = request.getfixturevalue("postgres"), count()
    return lambda: core(tmp_path / str(next(numbers)), store_url=url)


async def test_nothing_is_upgraded_without_proof(tmp_path: Path) -> None:
    """Without in-band proof even a testing environment refuses a connection without credential, and an expired one."""
    async with core(tmp_path) as guard:
        for asked, code in (
            (head(), "auth_required"),
            (head(authorization=f"Bearer {token(ttl_s=-100)}"), "token_expired"),
            (head(authorization=f"Bearer {token(secret='x' * 40)}"), "token_invalid"),
            (head("/other", authorization=f"Bearer {token()}"), "no_route"),
        ):
            decision = await decide(guard, asked)
            assert isinstance(decision, Deny)
            assert decision.refusal.code == code
        assert guard.limiter.total == 0


async def test_in_band_upgrades_inert_as_the_gateway_does(tmp_path: Path) -> None:
    """With in-band proof the environment's row holds: a connection without credential is upgraded and inert."""
    async with core(tmp_path, in_band=True) as guard:
        decision = await decide(guard, head())
        assert isinstance(decision, Accept)
        assert guard.limiter.unproven == 1


async def test_a_revocation_reaches_the_other_process_within_a_second(new_core: NewCore) -> None:
    """Two guards share a store: a revocation by one closes the sockets of its subject on both, and no other."""
    async with new_core() as one, new_core() as other:
        subject = uuid4().hex  # stays revoked in the module's store
        proof = f"Bearer {token(subject)}"
        both = [await admitted(on, head(authorization=proof)) for on in (one, other)]
        bob = await admitted(other, head(authorization=f"Bearer {token('bob')}"))
        began = time.monotonic()
        await one.revocations.revoke_subject("default", subject, until=time.time() + 60, reason="test")
        await until(lambda: all(held.closed is not None for held in both))
        assert all(held.closed_at - began < within(1.0) for held in both)
        assert {held.closed.code for held in both if held.closed is not None} == {3500}
        assert bob.closed is None
        assert isinstance(await decide(other, head(authorization=proof)), Deny)
        assert (one.limiter.total, other.limiter.total) == (0, 1)


async def test_a_ticket_is_used_once_by_all_processes(new_core: NewCore) -> None:
    """A ticket that one process issued admits once, in whichever process the upgrade arrives."""
    async with new_core() as one, new_core() as other:
        tess = await admitted(one, head(authorization=f"Bearer {token('tess')}"))
        identity = tess.life.identity
        assert identity is not None
        ticket = await issue_ticket(one.store.credentials, identity, time.time())
        asked = head(query=f"ticket={ticket}")
        decisions = await asyncio.gather(decide(one, asked), decide(other, asked))
        assert sorted(type(decision).__name__ for decision in decisions) == ["Accept", "Deny"]


async def test_expiry_and_a_fresh_token(tmp_path: Path) -> None:
    """A socket is closed 3005 when its token's grace is over, unless a fresh token came."""
    async with core(tmp_path, token_grace_s=0) as guard:
        ann = await admitted(guard, head(authorization=f"Bearer {token('ann', ttl_s=1)}"))
        bob = await admitted(guard, head(authorization=f"Bearer {token('bob', ttl_s=1)}"))
        fresh = guard.in_band.admit(bob.life.context, token("bob"))
        assert not isinstance(fresh, Deny)
        bob.life.refreshed()
        await until(lambda: ann.closed is not None)
        assert ann.closed is not None
        assert ann.closed.code == 3005
        assert bob.closed is None


async def test_rotation(tmp_path: Path) -> None:
    """A socket is closed 3011, which makes clients come back, at the end of its longest life."""
    async with core(tmp_path, max_socket_life_s=0.5) as guard:
        ann = await admitted(guard, head(authorization=f"Bearer {token('ann')}"))
        await until(lambda: ann.closed is not None)
        assert ann.closed is not None
        assert ann.closed.code == 3011


async def test_drain_is_paced(tmp_path: Path) -> None:
    """A drain closes every socket 3001, spread over the grace, and refuses newcomers meanwhile."""
    async with core(tmp_path, drain_grace_s=3.0, max_connections_per_user=1000) as guard:
        held = [await admitted(guard, head(authorization=f"Bearer {token('ann')}")) for _ in range(200)]
        draining = asyncio.create_task(guard.lifecycle.drain())
        await until(lambda: guard.state() == "draining")
        refused = await decide(guard, head(authorization=f"Bearer {token('bob')}"))
        assert isinstance(refused, Deny)
        assert refused.refusal.code == "draining"
        await draining
        assert {one.closed.code for one in held if one.closed} == {3001}
        times = sorted(one.closed_at for one in held)
        assert 0.9 < times[-1] - times[0] < 3.0


def test_every_problem_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard's settings are those of `serve`, checked at once; a broker is none of its business."""
    for name, value in {
        "K_SERVICE": "chat",
        "ENVIRONMENT": "production",
        "E2E_TESTING": "1",
        "NARTHEX_JWT_LEEWAY_S": "x",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as raised:
        guard_settings({"allowed_origins": ["nonsense"]})
    told = "\n".join(raised.value.problems)
    for named in (
        "E2E_TESTING",
        "NARTHEX_JWT_LEEWAY_S",
        "nonsense",
        "NARTHEX_STORE_URL",
        "NARTHEX_ALLOWED_HOSTS",
    ):
        assert named in told
    assert "NARTHEX_BROKER_URL" not in told
