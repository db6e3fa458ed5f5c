"""`narthex.app.e2e` and `narthex.app.exchange`: proof of the key on every surface, its limit, and the exchange."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import msgspec
import pytest

from narthex.app.exchange import ExchangeAnswer, ExchangeRequest
from narthex.domain.admission import Admit
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Rejected, Unavailable, Valid
from narthex.errors import DependencyError
from narthex.ports.edge import Accept, Deny
from narthex.ports.store import AuditRecord
from tests.app.handshake_harness import KEY, NOW, HandshakeHarness, head, open_entrance

WRONG = "not-the-key-not-the-key-not-the-key"
KEY_HEADER = ("x-e2e-bypass-key", KEY)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[HandshakeHarness]:
    """Staging with a key, and CI's issuer for one repository."""
    async with open_entrance(tmp_path, ci_subject="repo:acme/chat:*") as found:
        yield found


async def exchange(
    harness: HandshakeHarness,
    *keys: str,
    bearer: str = "",
    body: bytes = b"{}",
    address: str = "127.0.0.1",
) -> ExchangeAnswer | Refusal:
    """Ask for a token."""
    return await harness.exchange.exchange(
        ExchangeRequest(
            keys=keys,
            authorization=(f"Bearer {bearer}",) if bearer else (),
            body=body,
            address=address,
            trace_id="t" * 32,
            fresh_id="f" * 32,
        )
    )


async def code(harness: HandshakeHarness, *keys: str, **more: object) -> str:
    """The refusal of an exchange."""
    found = await exchange(harness, *keys, **more)  # type: ignore[arg-type]  # a test's shorthand
    assert isinstance(found, Refusal), found
    return found.code


class TestKeyAtTheHandshake:
    """`X-E2E-Bypass-Key`."""

    async def test_proves_a_confined_identity(self, harness: HandshakeHarness) -> None:
        """Named after its run, for 15 min, with the server's permissions."""
        context = await harness.seed(head(None, KEY_HEADER, ("x-e2e-test-run", "run-7")))
        assert context.identity == Identity(
            subject="e2e:run-7", tenant="e2e", plan="mid", permissions=("chat",), name="test run-7", e2e=True,
            test_run="run-7", identity_class=IdentityClass.E2E, issuer="narthex", issued_at=NOW,
            expires_at=NOW + 900,
        )  # fmt: skip
        assert harness.meter.live["e2e"] == 1
        assert harness.meter.counted["handshake", "admitted", "ok", "e2e"] == 1

    async def test_without_a_run_it_is_new_each_time(self, harness: HandshakeHarness) -> None:
        """So that two of them share nothing."""
        first, second = [await harness.seed(head(None, KEY_HEADER)) for _ in range(2)]
        assert first.identity is not None
        assert second.identity is not None
        assert first.identity.subject != second.identity.subject
        assert first.identity.test_run in first.identity.subject

    async def test_each_admission_is_an_audit_record(self, harness: HandshakeHarness) -> None:
        """Durable before the 101, without the key."""
        context = await harness.seed(head(None, KEY_HEADER, ("x-e2e-test-run", "run-7")))
        (record,) = await harness.store.records.audits("e2e_admission", 10)
        assert (record.subject, record.tenant, record.trace_id) == ("e2e:run-7", "e2e", context.trace_id)
        assert msgspec.json.decode(record.detail) == {
            "surface": "handshake", "proof": "e2e_key", "test_run": "run-7", "client": "127.0.0.1",
        }  # fmt: skip
        assert harness.meter.counted["e2e", "admitted"] == 1

    async def test_unrecorded_is_not_admitted(
        self, harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """And leaves no slot behind."""

        async def away(record: AuditRecord) -> None:
            raise DependencyError("store", "It is away.")

        monkeypatch.setattr(harness.store.records, "audit", away)
        assert await harness.refused(head(None, KEY_HEADER)) == "auth_unavailable"
        assert harness.limiter.total == 0
        assert harness.meter.counted["e2e", "unrecorded"] == 1
        assert harness.meter.counted["e2e", "admitted"] == 0

    async def test_a_client_that_leaves_while_it_is_recorded_holds_no_slot(
        self, harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The edge cancels the decision."""
        begun = asyncio.Event()

        async def slow(record: AuditRecord) -> None:
            begun.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(harness.store.records, "audit", slow)
        deciding = asyncio.ensure_future(harness.decide(head(None, KEY_HEADER)))
        await begun.wait()
        assert harness.limiter.total == 1
        deciding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deciding
        assert harness.limiter.total == 0

    async def test_a_bug_while_it_is_recorded_admits_nobody(
        self, harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is answered like any bug, and the slot is released."""

        async def broken(record: AuditRecord) -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(harness.store.records, "audit", broken)
        assert await harness.refused(head(None, KEY_HEADER)) == "internal"
        assert harness.limiter.total == 0

    async def test_one_that_is_revoked_while_it_is_recorded_is_not_admitted(
        self, harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Revocations are checked again after the wait."""
        audit = harness.store.records.audit

        async def slow(record: AuditRecord) -> None:
            await audit(record)
            monkeypatch.setattr(harness.revocations, "covers", lambda identity: True)

        monkeypatch.setattr(harness.store.records, "audit", slow)
        assert await harness.refused(head(None, KEY_HEADER)) == "token_revoked"
        assert harness.limiter.total == 0

    async def test_a_refused_one_is_not_recorded(self, harness: HandshakeHarness) -> None:
        """No test identity was admitted."""
        assert await harness.refused(head(None, ("x-e2e-bypass-key", WRONG))) == "e2e_key_wrong"
        assert await harness.refused(head("ann", KEY_HEADER)) == "credential_conflict"
        asked = await harness.handshakes.preflight(head(None, KEY_HEADER))
        assert isinstance(asked.outcome, Admit)
        assert await harness.store.records.audits("e2e_admission", 10) == []

    async def test_two_keys_live_during_a_rotation(self, tmp_path: Path) -> None:
        """Also a key that is not ASCII, as servers pass headers: latin-1 text of its bytes."""
        keys = ("new-key", "schlüssel")
        async with open_entrance(tmp_path, keys=keys) as harness:
            for key in keys:
                await harness.seed(head(None, ("x-e2e-bypass-key", key.encode().decode("latin-1"))))
            assert await harness.refused(head(None, ("x-e2e-bypass-key", "old-key"))) == "e2e_key_wrong"
            assert await harness.refused(head(None, ("x-e2e-bypass-key", ""))) == "e2e_key_wrong"

    async def test_it_is_not_taken_where_the_bypass_is_off(self, tmp_path: Path) -> None:
        """Production, and staging without a key, report it."""
        for environment in ("production", "staging", "development"):
            directory = tmp_path / environment
            directory.mkdir()
            async with open_entrance(directory, environment, keys=()) as harness:
                assert await harness.refused(head(None, KEY_HEADER)) == "e2e_not_allowed_here"


class TestWrongKeys:
    """Ten a minute, per client address, across every surface."""

    async def try_one(
        self, harness: HandshakeHarness, surface: int, key: str, address: str = "127.0.0.1"
    ) -> str:
        """A key on one of three surfaces."""
        request = head(None, ("x-e2e-bypass-key", key), peer=address)
        if surface == 0:
            decision = await harness.decide(request)
            if isinstance(decision, Accept):
                return "admitted"
            assert isinstance(decision, Deny)
            return decision.refusal.code
        if surface == 1:
            outcome = (await harness.handshakes.preflight(request)).outcome
            return outcome.code if isinstance(outcome, Refusal) else "admitted"
        found = await exchange(harness, key, address=address)
        return found.code if isinstance(found, Refusal) else "admitted"

    async def test_the_eleventh_is_limited_everywhere(self, harness: HandshakeHarness) -> None:
        """The right key too, otherwise guessing could continue; other addresses are not; a minute later all is
        allowed.
        """
        for n in range(10):
            assert await self.try_one(harness, n % 3, WRONG) == "e2e_key_wrong"
        for surface in range(3):
            assert await self.try_one(harness, surface, WRONG) == "rate_limited"
            assert await self.try_one(harness, surface, KEY) == "rate_limited"
            assert await self.try_one(harness, surface, KEY, "9.9.9.9") == "admitted"
        harness.clock.now += 59.5
        assert await self.try_one(harness, 0, KEY) == "rate_limited", "to the last second"
        harness.clock.now += 0.5
        for surface in range(3):
            assert await self.try_one(harness, surface, KEY) == "admitted"
        assert harness.meter.counted["e2e", "wrong_key"] == 10
        assert harness.meter.counted["e2e", "rate_limited"] == 7

    async def test_an_ipv6_household_is_one_address(self, harness: HandshakeHarness) -> None:
        """A /64 does not get 2^64 times ten guesses."""
        for n in range(10):
            assert await self.try_one(harness, 0, WRONG, f"2001:db8::{n}") == "e2e_key_wrong"
        assert await self.try_one(harness, 0, WRONG, "2001:db8::ffff") == "rate_limited"

    async def test_the_refusal_says_when_to_come_back(self, harness: HandshakeHarness) -> None:
        """429 with Retry-After."""
        for _ in range(10):
            await exchange(harness, WRONG)
        found = await exchange(harness, WRONG)
        assert isinstance(found, Refusal)
        assert found.row.http == 429
        assert found.retry_after_s == 61, "one second more than the wait, never less"


class TestExchange:
    """`POST /auth/e2e/test-auth`, without its HTTP."""

    @pytest.mark.parametrize("length", [1, 128])
    async def test_a_name_up_to_its_bound_is_kept(self, harness: HandshakeHarness, length: int) -> None:
        """128 characters; 129 are refused below."""
        found = await exchange(harness, KEY, body=msgspec.json.encode({"name": "n" * length}))
        assert isinstance(found, ExchangeAnswer)
        assert found.user["name"] == "n" * length

    async def test_gives_a_token_that_the_handshake_admits(self, harness: HandshakeHarness) -> None:
        """At the handshake and in-band, as the same confined identity."""
        found = await exchange(
            harness, KEY, body=b'{"email": "Ann@Example.com", "name": "Ann", "test_run": "r1"}'
        )
        assert isinstance(found, ExchangeAnswer)
        assert (found.token_type, found.expires_in) == ("Bearer", 900)
        assert found.user == {
            "id": "e2e:r1:ann@example.com", "email": "ann@example.com", "name": "Ann", "tenant": "e2e",
            "plan": "mid", "permissions": ["chat"], "e2e": True, "test_run": "r1",
        }  # fmt: skip
        context = await harness.seed(head(found.access_token))
        assert context.identity is not None
        assert (context.identity.subject, context.identity.test_run, context.identity.e2e) == (
            found.user["id"],
            "r1",
            True,
        )
        assert context.identity.expires_at == NOW + 900
        inert = await harness.seed(head())
        outcome = harness.in_band.admit(inert, found.access_token)
        assert isinstance(outcome, Awaitable)
        assert isinstance(await outcome, Admit)
        surfaces = [
            msgspec.json.decode(record.detail)["surface"]
            for record in await harness.store.records.audits("e2e_admission", 10)
        ]
        assert sorted(surfaces) == ["connect", "exchange", "handshake"]

    async def test_its_token_is_worth_nothing_elsewhere(
        self, harness: HandshakeHarness, tmp_path: Path
    ) -> None:
        """In production, also on the same store."""
        found = await exchange(harness, KEY)
        assert isinstance(found, ExchangeAnswer)
        (tmp_path / "production").mkdir()
        async with open_entrance(tmp_path / "production", "production", keys=()) as production:
            production.verifier = harness.verifier
            production.handshakes._credentials._verifier = harness.verifier
            assert await production.refused(head(found.access_token)) == "e2e_not_allowed_here"

    @pytest.mark.parametrize(
        ("body", "subject"),
        [
            (b"", "e2e:" + "f" * 32),
            (b" ", "e2e:" + "f" * 32),
            (b"{}", "e2e:" + "f" * 32),
            (b'{"test_run": "r1"}', "e2e:r1"),
            (b'{"email": "a@b"}', "e2e:a@b"),
        ],
    )
    async def test_everything_in_the_body_may_be_left_out(
        self, harness: HandshakeHarness, body: bytes, subject: str
    ) -> None:
        """Without a run or an e-mail the user is new."""
        found = await exchange(harness, KEY, body=body)
        assert isinstance(found, ExchangeAnswer)
        assert found.user["id"] == subject

    @pytest.mark.parametrize(
        "body",
        [
            b"[]",
            b"null",
            b"{",
            b'{"permissions": ["admin"]}',
            b'{"tenant": "acme"}',
            b'{"email": 7}',
            b'{"email": "no address"}',
            b'{"email": "a:b@c"}',
            b'{"email": "' + b"a" * 130 + b'@b"}',
            b'{"name": "a\\u0000b"}',
            b'{"name": "' + b"a" * 129 + b'"}',
            b'{"test_run": "a b"}',
            b'{"test_run": "' + b"a" * 65 + b'"}',
            b"[" * 100_000,
            b"\xff",
        ],
    )
    async def test_a_bad_body_is_422(self, harness: HandshakeHarness, body: bytes) -> None:
        """Permissions among it: the server assigns them; nothing is minted or recorded."""
        found = await exchange(harness, KEY, body=body)
        assert isinstance(found, Refusal)
        assert (found.code, found.row.http) == ("body_invalid", 422)
        assert await harness.store.records.audits("e2e_admission", 10) == []

    async def test_proof_comes_before_the_body(self, harness: HandshakeHarness) -> None:
        """A wrong key gets no information about the body."""
        assert await code(harness, WRONG, body=b"[") == "e2e_key_wrong"
        assert await code(harness) == "e2e_key_wrong"
        assert await code(harness, "") == "e2e_key_wrong"
        assert await code(harness, KEY, KEY) == "credential_conflict"
        assert await code(harness, KEY, bearer="ci") == "credential_conflict"

    async def test_production_exchanges_nothing(self, tmp_path: Path) -> None:
        """Always 403."""
        async with open_entrance(tmp_path, "production", keys=(), ci_subject="repo:*") as harness:
            assert await code(harness, KEY) == "e2e_not_allowed_here"
            assert await code(harness, bearer="ci") == "e2e_not_allowed_here"

    async def test_without_a_key_it_is_503(self, tmp_path: Path) -> None:
        """And the answer names the missing setting."""
        async with open_entrance(tmp_path, "staging", keys=()) as harness:
            found = await exchange(harness, KEY)
            assert isinstance(found, Refusal)
            assert (found.row.http, found.detail) == (503, "E2E_OAUTH_SIMULATION_KEY is not set.")

    async def test_a_repr_shows_neither_key_nor_token(self, harness: HandshakeHarness) -> None:
        """They would end up in tracebacks."""
        found = await exchange(harness, KEY)
        assert isinstance(found, ExchangeAnswer)
        assert found.access_token[:8] not in repr(found)
        asked = ExchangeRequest(
            keys=(KEY,), authorization=(KEY,), body=KEY.encode(), address="", trace_id="t", fresh_id="f"
        )
        assert KEY[:8] not in repr(asked)


class TestCi:
    """CI's own OIDC token instead of the key."""

    async def test_of_the_right_workflow(self, harness: HandshakeHarness) -> None:
        """By its subject, `*` matching the rest; the identity is a test's, not the workflow's."""
        harness.verifier.verdicts["ci"] = Valid(Identity(subject="repo:acme/chat:ref:main"))
        found = await exchange(harness, bearer="ci", body=b'{"test_run": "ci-1"}')
        assert isinstance(found, ExchangeAnswer)
        assert found.user["id"] == "e2e:ci-1"
        assert harness.verifier.traffic == ["e2e"]
        (record,) = await harness.store.records.audits("e2e_admission", 10)
        assert msgspec.json.decode(record.detail)["proof"] == "oidc"

    @pytest.mark.parametrize(
        "subject", ["repo:acme/chat", "repo:acme/chat-evil:ref", "repo:evil/chat:ref", "*"]
    )
    async def test_of_another_workflow(self, harness: HandshakeHarness, subject: str) -> None:
        """403: the workflow is known, but not allowed."""
        harness.verifier.verdicts["ci"] = Valid(Identity(subject=subject))
        assert await code(harness, bearer="ci") == "permission_denied"

    async def test_bad_away_and_hung(
        self, harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Three verdicts here too, and a bounded wait."""
        monkeypatch.setattr("narthex.app.exchange.WAIT_S", 0.05)
        harness.verifier.verdicts |= {"away": Unavailable("away", 4), "old": Rejected("token_expired")}
        harness.verifier.hung = {"hung"}
        assert await code(harness, bearer="forged") == "token_invalid"
        assert await code(harness, bearer="old") == "token_expired"
        assert await code(harness, bearer="away") == "auth_unavailable"
        assert await code(harness, bearer="hung") == "auth_unavailable"

    async def test_is_not_taken_where_none_is_configured(self, tmp_path: Path) -> None:
        """The key is then missing."""
        async with open_entrance(tmp_path) as harness:
            assert await code(harness, bearer="ann") == "e2e_key_wrong"
