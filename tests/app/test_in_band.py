"""`narthex.app.in_band`: proof in `connect` and `refresh`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import msgspec
import pytest

from narthex.app.seed import Seed
from narthex.domain.admission import Admit
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.limits import Limits
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Rejected, Unavailable, Valid
from narthex.errors import DependencyError
from narthex.ports.store import AuditRecord
from tests.app.entrance import ANN, NOW, PAGE, Entrance, head, open_entrance
from tests.timing import within

TESTER = Identity(
    subject="e2e:r", tenant="e2e", e2e=True, test_run="r", identity_class=IdentityClass.E2E, plan="mid"
)


@pytest.fixture
async def entrance(tmp_path: Path) -> AsyncIterator[Entrance]:
    """Staging with end-to-end testing on: who brings nothing is inert."""
    async with open_entrance(tmp_path) as found:
        found.verifier.verdicts["tester"] = Valid(TESTER)
        found.verifier.verdicts["old"] = Rejected("token_expired", expired=ANN)
        yield found


async def prove(entrance: Entrance, seed: Seed, token: str) -> str:
    """The subject that was admitted, or the refusal's code."""
    outcome = entrance.door.admit_in_band(seed, token)
    if isinstance(outcome, Awaitable):
        outcome = await outcome
    if isinstance(outcome, Refusal):
        return outcome.code
    assert isinstance(outcome, Admit)
    assert outcome.identity == seed.identity
    return seed.identity.subject if seed.identity else ""


async def test_an_inert_connection_proves_itself_at_once(entrance: Entrance) -> None:
    """Without an await; its seat moves to the user."""
    seed = await entrance.seed(head())
    assert (seed.identity, entrance.seats.unproven) == (None, 1)
    outcome = entrance.door.admit_in_band(seed, "ann")
    assert isinstance(outcome, Admit)
    assert (seed.identity, entrance.seats.unproven, entrance.seats.of_user(ANN.user)) == (ANN, 0, 1)
    assert entrance.meter.counted["credential", "connect_token", "valid"] == 1


async def test_a_bad_token_proves_nothing(entrance: Entrance) -> None:
    """And the seat stays where it was."""
    seed = await entrance.seed(head())
    assert await prove(entrance, seed, "forged") == "token_invalid"
    assert await prove(entrance, seed, "old") == "token_expired"
    assert (seed.identity, entrance.seats.unproven) == (None, 1)


async def test_the_subject_stays(entrance: Entrance) -> None:
    """Whoever is bound, by the handshake or in-band, cannot become somebody else."""
    proved = await entrance.seed(head("ann"))
    assert await prove(entrance, proved, "bob") == "credential_conflict"
    assert await prove(entrance, proved, "ann") == "ann"
    inert = await entrance.seed(head())
    assert await prove(entrance, inert, "ann") == "ann"
    assert await prove(entrance, inert, "bob") == "credential_conflict"
    assert inert.identity == ANN


async def test_after_an_expired_handshake_only_the_same_subject(entrance: Entrance) -> None:
    """Another try is possible after an expired one."""
    seed = await entrance.seed(head("old"))
    assert await prove(entrance, seed, "bob") == "credential_conflict"
    assert await prove(entrance, seed, "old") == "token_expired"
    assert await prove(entrance, seed, "ann") == "ann"


async def test_the_user_s_limit_holds(entrance: Entrance) -> None:
    """The eleventh of a free user is refused in-band too."""
    for _ in range(10):
        await entrance.seed(head("ann"))
    seed = await entrance.seed(head())
    assert await prove(entrance, seed, "ann") == "connection_limit"
    assert seed.identity is None
    refreshed = await entrance.seed(head("bob"))
    assert await prove(entrance, refreshed, "bob") == "bob"


async def test_waits_no_longer_than_its_deadline(entrance: Entrance) -> None:
    """Cannot tell is not bad."""
    entrance.verifier.hung = {"ann"}
    seed = await entrance.seed(head())
    assert await prove(entrance, seed, "ann") == "auth_unavailable"
    entrance.verifier.arrived.set()
    assert await prove(entrance, seed, "ann") == "ann"
    entrance.verifier.verdicts["away"] = Unavailable("away")
    assert await prove(entrance, seed, "away") == "auth_unavailable"


async def test_a_proof_after_the_end_counts_nothing(entrance: Entrance) -> None:
    """The client hung up while the keys were fetched."""
    entrance.verifier.hung = {"ann"}
    seed = await entrance.seed(head())
    outcome = entrance.door.admit_in_band(seed, "ann")
    seed.release()
    entrance.verifier.arrived.set()
    assert isinstance(outcome, Awaitable)
    await outcome
    assert (entrance.seats.total, entrance.seats.of_user(ANN.user)) == (0, 0)


async def test_a_test_identity_s_proof_is_recorded_once(entrance: Entrance) -> None:
    """By `connect`, not by each refresh."""
    seed = await entrance.seed(head())
    assert await prove(entrance, seed, "tester") == "e2e:r"
    assert await prove(entrance, seed, "tester") == "e2e:r"
    (record,) = await entrance.store.records.audits("e2e_admission", 10)
    assert (record.subject, record.tenant, record.at, record.trace_id) == ("e2e:r", "e2e", NOW, seed.trace_id)
    assert msgspec.json.decode(record.detail) == {
        "surface": "connect", "proof": "connect_token", "test_run": "r", "client": "127.0.0.1",
    }  # fmt: skip
    assert entrance.meter.live["e2e"] == 1


async def test_unrecorded_is_not_admitted(entrance: Entrance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stays inert and may try again."""

    async def away(record: AuditRecord) -> None:
        raise DependencyError("store", "It is away.")

    seed = await entrance.seed(head())
    with monkeypatch.context() as patch:
        patch.setattr(entrance.store.records, "audit", away)
        assert await prove(entrance, seed, "tester") == "auth_unavailable"
    assert seed.identity is None
    assert await prove(entrance, seed, "tester") == "e2e:r"


async def test_a_guest_may_sign_in(tmp_path: Path) -> None:
    """From an unproven seat to their own, and then they stay who they are."""
    limits = Limits(max_connections_unauthenticated=1)
    async with open_entrance(tmp_path, "development", guests=True, limits=limits) as entrance:
        seed = await entrance.seed(head(None, ("origin", PAGE)))
        assert seed.identity is not None
        assert seed.identity.identity_class is IdentityClass.GUEST
        assert await entrance.refused(head(None, ("origin", PAGE))) == "connection_limit"
        assert await prove(entrance, seed, "ann") == "ann"
        assert (entrance.seats.unproven, entrance.meter.live["user"], entrance.meter.live["guest"]) == (
            0,
            1,
            0,
        )
        assert await prove(entrance, seed, "bob") == "credential_conflict"


async def test_a_test_identity_that_waited_for_its_verdict_is_recorded_too(entrance: Entrance) -> None:
    """The way through a fetch is another one; nobody of the tests comes in unrecorded by it."""
    entrance.verifier.hung = {"tester"}
    seed = await entrance.seed(head())
    outcome = entrance.door.admit_in_band(seed, "tester")
    assert isinstance(outcome, Awaitable)
    entrance.verifier.arrived.set()
    assert isinstance(await outcome, Admit)
    (record,) = await entrance.store.records.audits("e2e_admission", 10)
    assert record.subject == "e2e:r"


async def test_the_record_is_waited_for_no_longer_than_the_deadline(
    entrance: Entrance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hangs is "cannot tell", within the command's one deadline."""

    async def hangs(record: AuditRecord) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(entrance.store.records, "audit", hangs)
    seed = await entrance.seed(head())
    async with asyncio.timeout(within(5)):
        assert await prove(entrance, seed, "tester") == "auth_unavailable"
    assert seed.identity is None
