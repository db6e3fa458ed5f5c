"""`narthex.app.in_band`: authentication in `connect` and `refresh`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import msgspec
import pytest

from narthex.app.connection_context import ConnectionContext
from narthex.domain.admission import Admit
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.limits import Limits
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Rejected, Unavailable, Valid
from narthex.errors import DependencyError
from narthex.ports.store import AuditRecord
from tests.app.handshake_harness import ANN, NOW, PAGE, HandshakeHarness, head, open_entrance
from tests.timing import within

TESTER = Identity(
    subject="e2e:r", tenant="e2e", e2e=True, test_run="r", identity_class=IdentityClass.E2E, plan="mid"
)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[HandshakeHarness]:
    """Staging with end-to-end testing on: a client without a credential is inert."""
    async with open_entrance(tmp_path) as found:
        found.verifier.verdicts["tester"] = Valid(TESTER)
        found.verifier.verdicts["old"] = Rejected("token_expired", expired=ANN)
        yield found


async def prove(harness: HandshakeHarness, context: ConnectionContext, token: str, header: str = "") -> str:
    """The admitted subject, or the refusal's code."""
    outcome = harness.in_band.admit(context, token, header)
    if isinstance(outcome, Awaitable):
        outcome = await outcome
    if isinstance(outcome, Refusal):
        return outcome.code
    assert isinstance(outcome, Admit)
    assert outcome.identity == context.identity
    return context.identity.subject if context.identity else ""


async def test_an_inert_connection_proves_itself_at_once(harness: HandshakeHarness) -> None:
    """Without an await; its slot moves to the user."""
    context = await harness.seed(head())
    assert (context.identity, harness.limiter.unproven) == (None, 1)
    outcome = harness.in_band.admit(context, "ann")
    assert isinstance(outcome, Admit)
    assert (context.identity, harness.limiter.unproven, harness.limiter.of_user(ANN.user)) == (ANN, 0, 1)
    assert harness.meter.counted["credential", "connect_token", "valid"] == 1


async def test_a_bad_token_proves_nothing(harness: HandshakeHarness) -> None:
    """And the slot stays unauthenticated."""
    context = await harness.seed(head())
    assert await prove(harness, context, "forged") == "token_invalid"
    assert await prove(harness, context, "old") == "token_expired"
    assert (context.identity, harness.limiter.unproven) == (None, 1)


@pytest.mark.parametrize(
    ("token", "header", "outcome"),
    [
        ("", "ann", "ann"),
        ("ann", "ann", "ann"),
        ("ann", "old", "ann"),  # an SDK that has refreshed its token sends its headers unchanged
        ("bob", "old", "token_expired"),  # a stale header of another user is no such thing
        ("ann", "bob", "credential_conflict"),
        ("ann", "forged", "token_invalid"),
        ("", "old", "token_expired"),
        ("", "forged", "token_invalid"),
        ("", "tester", "e2e:r"),
    ],
)
async def test_the_emulated_header_is_a_carrier_like_any(
    harness: HandshakeHarness, token: str, header: str, outcome: str
) -> None:
    """Alone or beside the command's token: every credential counts, and is counted by its carrier."""
    context = await harness.seed(head())
    assert await prove(harness, context, token, header) == outcome
    counted = {key[1] for key in harness.meter.counted if key[0] == "credential"}
    assert counted == {"connect_header"} | ({"connect_token"} if token else set())


async def test_the_emulated_header_cannot_change_the_subject(harness: HandshakeHarness) -> None:
    """A connection that its handshake bound to a user refuses another user's header."""
    context = await harness.seed(head("ann"))
    assert await prove(harness, context, "", "bob") == "credential_conflict"
    assert await prove(harness, context, "", "ann") == "ann"


async def test_the_subject_stays(harness: HandshakeHarness) -> None:
    """A client bound by the handshake or in-band cannot change its subject."""
    proved = await harness.seed(head("ann"))
    assert await prove(harness, proved, "bob") == "credential_conflict"
    assert await prove(harness, proved, "ann") == "ann"
    inert = await harness.seed(head())
    assert await prove(harness, inert, "ann") == "ann"
    assert await prove(harness, inert, "bob") == "credential_conflict"
    assert inert.identity == ANN


async def test_after_an_expired_handshake_only_the_same_subject(harness: HandshakeHarness) -> None:
    """An expired handshake allows another attempt."""
    context = await harness.seed(head("old"))
    assert await prove(harness, context, "bob") == "credential_conflict"
    assert await prove(harness, context, "old") == "token_expired"
    assert await prove(harness, context, "ann") == "ann"


async def test_the_user_s_limit_holds(harness: HandshakeHarness) -> None:
    """The eleventh of a free user is refused in-band too."""
    for _ in range(10):
        await harness.seed(head("ann"))
    context = await harness.seed(head())
    assert await prove(harness, context, "ann") == "connection_limit"
    assert context.identity is None
    refreshed = await harness.seed(head("bob"))
    assert await prove(harness, refreshed, "bob") == "bob"


async def test_waits_no_longer_than_its_deadline(harness: HandshakeHarness) -> None:
    """An unknown verdict is not a bad one."""
    harness.verifier.hung = {"ann"}
    context = await harness.seed(head())
    assert await prove(harness, context, "ann") == "auth_unavailable"
    harness.verifier.arrived.set()
    assert await prove(harness, context, "ann") == "ann"
    harness.verifier.verdicts["away"] = Unavailable("away")
    assert await prove(harness, context, "away") == "auth_unavailable"


async def test_a_token_that_is_revoked_while_another_is_verified(harness: HandshakeHarness) -> None:
    """The header's verdict comes at once, the token's takes longer: the revocation between them counts."""
    identity = msgspec.structs.replace(ANN, token_id="ann-1")
    harness.verifier.verdicts |= {"quick": Valid(identity), "slow": Valid(ANN)}
    harness.verifier.hung = {"slow"}
    context = await harness.seed(head())
    proving = asyncio.create_task(prove(harness, context, "quick", "slow"))
    await asyncio.sleep(0)
    await harness.revocations.revoke_token(identity, reason="test")
    harness.verifier.arrived.set()
    assert await proving == "token_revoked"
    assert context.identity is None


async def test_a_proof_after_the_end_counts_nothing(harness: HandshakeHarness) -> None:
    """The client hung up while the keys were fetched."""
    harness.verifier.hung = {"ann"}
    context = await harness.seed(head())
    outcome = harness.in_band.admit(context, "ann")
    context.release()
    harness.verifier.arrived.set()
    assert isinstance(outcome, Awaitable)
    await outcome
    assert (harness.limiter.total, harness.limiter.of_user(ANN.user)) == (0, 0)


async def test_a_test_identity_s_proof_is_recorded_once(harness: HandshakeHarness) -> None:
    """By `connect`, not by each refresh."""
    context = await harness.seed(head())
    assert await prove(harness, context, "tester") == "e2e:r"
    assert await prove(harness, context, "tester") == "e2e:r"
    (record,) = await harness.store.records.audits("e2e_admission", 10)
    assert (record.subject, record.tenant, record.at, record.trace_id) == (
        "e2e:r",
        "e2e",
        NOW,
        context.trace_id,
    )
    assert msgspec.json.decode(record.detail) == {
        "surface": "connect", "proof": "connect_token", "test_run": "r", "client": "127.0.0.1",
    }  # fmt: skip
    assert harness.meter.live["e2e"] == 1


async def test_unrecorded_is_not_admitted(harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection stays inert and may retry."""

    async def away(record: AuditRecord) -> None:
        raise DependencyError("store", "It is away.")

    context = await harness.seed(head())
    with monkeypatch.context() as patch:
        patch.setattr(harness.store.records, "audit", away)
        assert await prove(harness, context, "tester") == "auth_unavailable"
    assert context.identity is None
    assert await prove(harness, context, "tester") == "e2e:r"


async def test_a_guest_may_sign_in(tmp_path: Path) -> None:
    """From an unauthenticated slot to their own; afterwards they cannot change the user."""
    limits = Limits(max_connections_unauthenticated=1)
    async with open_entrance(tmp_path, "development", guests=True, limits=limits) as harness:
        context = await harness.seed(head(None, ("origin", PAGE)))
        assert context.identity is not None
        assert context.identity.identity_class is IdentityClass.GUEST
        assert await harness.refused(head(None, ("origin", PAGE))) == "connection_limit"
        assert await prove(harness, context, "ann") == "ann"
        assert (harness.limiter.unproven, harness.meter.live["user"], harness.meter.live["guest"]) == (
            0,
            1,
            0,
        )
        assert await prove(harness, context, "bob") == "credential_conflict"


async def test_a_test_identity_that_waited_for_its_verdict_is_recorded_too(harness: HandshakeHarness) -> None:
    """The path through a fetch differs; no test identity is admitted unrecorded by it."""
    harness.verifier.hung = {"tester"}
    context = await harness.seed(head())
    outcome = harness.in_band.admit(context, "tester")
    assert isinstance(outcome, Awaitable)
    harness.verifier.arrived.set()
    assert isinstance(await outcome, Admit)
    (record,) = await harness.store.records.audits("e2e_admission", 10)
    assert record.subject == "e2e:r"


async def test_the_record_is_waited_for_no_longer_than_the_deadline(
    harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that hangs gives "cannot tell", within the command's one deadline."""

    async def hangs(record: AuditRecord) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(harness.store.records, "audit", hangs)
    context = await harness.seed(head())
    async with asyncio.timeout(within(5)):
        assert await prove(harness, context, "tester") == "auth_unavailable"
    assert context.identity is None
