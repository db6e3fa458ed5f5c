"""`narthex.app.handshake`: decisions, their deadline, tickets, records, and failures of its dependencies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest

from narthex.app.credentials import WAIT_S
from narthex.domain.addresses import TrustedProxies
from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Rejected, Unavailable
from narthex.errors import DependencyError
from narthex.ports.credentials import Revocation
from narthex.ports.edge import Accept, Deny, RequestHead
from narthex.ports.store import AuditRecord
from tests.app.handshake_harness import (
    ANN,
    BOB,
    KEY,
    NOW,
    PAGE,
    HandshakeHarness,
    RecordingHandler,
    head,
    open_entrance,
)

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[HandshakeHarness]:
    """Staging with end-to-end testing on."""
    async with open_entrance(tmp_path) as found:
        yield found


def at_once(harness: HandshakeHarness, request: RequestHead) -> Accept | Deny:
    """A decision that must not need an await."""
    decision = harness.handshakes.decide(request)
    assert isinstance(decision, Accept | Deny)
    return decision


class TestWithoutWaiting:
    """The hot path."""

    async def test_a_verified_token_is_admitted_at_once(self, harness: HandshakeHarness) -> None:
        """With its identity, slot, address and trace in the context."""
        decision = at_once(
            harness, head("ann", ("origin", PAGE), ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"))
        )
        assert isinstance(decision, Accept)
        assert isinstance(decision.receiver, RecordingHandler)
        context = decision.receiver.context
        assert (context.identity, context.trace_id, context.address) == (ANN, TRACE, "127.0.0.1")
        assert (context.transport, context.started_at, decision.limits) == ("websocket", NOW, "app")
        assert harness.meter.counted["handshake", "admitted", "ok", "user"] == 1
        assert harness.meter.counted["credential", "authorization", "valid"] == 1

    async def test_so_is_nothing_and_so_is_a_refusal(self, harness: HandshakeHarness) -> None:
        """Neither needs the store."""
        inert = at_once(harness, head())
        assert isinstance(inert, Accept)
        assert harness.meter.counted["handshake", "inert", "unproven", "user"] == 1
        denied = at_once(harness, head("forged"))
        assert isinstance(denied, Deny)
        assert denied.refusal.code == "token_invalid"
        assert harness.meter.counted["handshake", "refused", "token_invalid", "user"] == 1

    @pytest.mark.parametrize(
        ("path", "transport"),
        [
            ("/ws", "websocket"),
            ("/websocket", "websocket"),
            ("/connection/websocket", "websocket"),
            ("/connection/sse", "sse"),
            ("/connection/http_stream", "http_stream"),
        ],
    )
    async def test_every_way_in_has_the_same_rules(
        self, harness: HandshakeHarness, path: str, transport: str
    ) -> None:
        """Aliases and fallbacks."""
        assert (await harness.seed(head("ann", path=path))).transport == transport
        assert await harness.refused(head("forged", path=path)) == "token_invalid"

    @pytest.mark.parametrize("path", ["/", "/ws/", "/WS", "/ws/conformance", "/ws/preflight", "/nowhere"])
    async def test_other_paths_are_no_route(self, harness: HandshakeHarness, path: str) -> None:
        """With a valid token too; without the setting there is no echo."""
        assert await harness.refused(head("ann", path=path)) == "no_route"

    @pytest.mark.parametrize(
        ("state", "code"), [("starting", "starting"), ("draining", "draining"), ("stopped", "draining")]
    )
    async def test_only_a_ready_gateway_admits(
        self, harness: HandshakeHarness, state: str, code: str
    ) -> None:
        """503 with Retry-After before and after."""
        harness.state = state
        denied = at_once(harness, head("ann"))
        assert isinstance(denied, Deny)
        assert (denied.refusal.code, denied.refusal.row.http) == (code, 503)
        assert denied.refusal.retry_after_s is not None
        assert harness.verifier.traffic == []

    async def test_a_foreign_host_is_refused(self, harness: HandshakeHarness) -> None:
        """DNS rebinding: otherwise the attacker's page would be same-origin."""
        request = head("ann", ("origin", "http://evil.org"), host="evil.org")
        assert await harness.refused(request) == "bad_request"

    async def test_what_is_refused_anyway_is_not_verified(self, harness: HandshakeHarness) -> None:
        """Neither for a foreign page, nor together with a token in the URL."""
        assert await harness.refused(head("ann", ("origin", "https://evil.org"))) == "origin_not_allowed"
        assert await harness.refused(head("ann", query="token=x")) == "credential_in_url"
        assert harness.verifier.traffic == []

    async def test_explain_is_passed_on(self, harness: HandshakeHarness) -> None:
        """The edge upgrades and closes with the reason; admitted clients get the subprotocol."""
        offer = ("sec-websocket-protocol", "jwt-auth, jwt.forged, narthex.explain")
        denied = at_once(harness, head(None, offer))
        assert isinstance(denied, Deny)
        assert denied.explain
        accepted = at_once(harness, head(None, ("sec-websocket-protocol", "jwt-auth, jwt.ann")))
        assert isinstance(accepted, Accept)
        assert accepted.subprotocol == "jwt-auth"

    async def test_an_expired_token_is_inert_unless_explained(self, harness: HandshakeHarness) -> None:
        """Bound to its subject."""
        harness.verifier.verdicts["old"] = Rejected("token_expired", expired=ANN)
        context = await harness.seed(head("old"))
        assert (context.identity, context.bound, context.admit.inert) == (None, ANN, "expired")
        offer = ("sec-websocket-protocol", "narthex.explain")
        assert await harness.refused(head("old", offer)) == "token_expired"

    async def test_the_address_comes_through_trusted_proxies(self, tmp_path: Path) -> None:
        """For the context, the slots and the record alike."""
        async with open_entrance(tmp_path, trusted=TrustedProxies(hops=1)) as harness:
            request = head("ann", ("x-forwarded-for", "6.6.6.6, 1.2.3.4"), ("x-forwarded-proto", "https"))
            context = await harness.seed(request)
            assert (context.address, context.scheme) == ("1.2.3.4", "https")
            assert harness.limiter.of_address("1.2.3.4") == 1
            assert harness.records[-1]["client"] == "1.2.3.4"

    async def test_over_https_the_plain_cookie_is_nobodys(self, tmp_path: Path) -> None:
        """A neighbouring host can set it; at the upgrade as on every other route. Over http no other cookie exists."""
        async with open_entrance(tmp_path, trusted=TrustedProxies(hops=1)) as harness:
            page = ("origin", PAGE)
            own, plain = ("cookie", "__Host-narthex_session=ann"), ("cookie", "narthex_session=ann")
            https = (("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"))
            assert (await harness.seed(head(None, own, page, *https))).identity == ANN
            assert (await harness.seed(head(None, plain, page))).identity == ANN
            context = await harness.seed(head(None, plain, page, *https))
            assert (context.identity, context.admit.inert) == (None, "unproven")
            asked = await harness.handshakes.identify(head(None, plain, page, *https))
            assert not isinstance(asked.outcome, Refusal)
            assert asked.outcome.identity is None

    async def test_a_test_s_fetches_have_their_own_breaker(self, harness: HandshakeHarness) -> None:
        """A client that claims to be a test cannot open the users' breaker."""
        await harness.decide(head("ann"))
        await harness.decide(head("ann", ("x-e2e-test-run", "run-1")))
        assert harness.verifier.traffic == ["user", "e2e"]


class TestWaiting:
    """Keys that must be fetched first."""

    async def test_the_verdict_is_awaited(self, harness: HandshakeHarness) -> None:
        """And then decided like any other."""
        harness.verifier.hung = {"ann", "forged"}
        harness.verifier.arrived.set()
        assert (await harness.seed(head("ann"))).identity == ANN
        assert await harness.refused(head("forged")) == "token_invalid"

    async def test_a_drain_that_begins_meanwhile_counts(self, harness: HandshakeHarness) -> None:
        """A client that waited for keys is refused by a draining gateway, and no slot is taken."""
        harness.verifier.hung = {"ann"}
        decision = harness.handshakes.decide(head("ann"))
        assert isinstance(decision, Awaitable)
        harness.state = "draining"
        harness.verifier.arrived.set()
        denied = await decision
        assert isinstance(denied, Deny)
        assert (denied.refusal.code, denied.refusal.row.http) == ("draining", 503)
        assert harness.limiter.total == 0

    async def test_the_deadline_means_cannot_tell(self, harness: HandshakeHarness) -> None:
        """503 with Retry-After, not 401; one deadline for several fetches; no slot stays taken."""
        harness.verifier.hung = {"ann"}
        loop = asyncio.get_running_loop()
        began = loop.time()
        both = head("ann", ("sec-websocket-protocol", "jwt-auth, jwt.ann"))
        decision = await harness.decide(both)
        assert isinstance(decision, Deny)
        assert (decision.refusal.code, decision.refusal.retry_after_s) == ("auth_unavailable", 1)
        assert loop.time() - began < 0.35
        assert harness.limiter.total == 0

    async def test_the_handshake_s_own_deadline_counts_too(self, tmp_path: Path) -> None:
        """A head that took 9.95 s leaves 0.05 s to wait for keys."""
        async with open_entrance(tmp_path, wait_s=5.0) as harness:
            harness.verifier.hung = {"ann"}
            request = head("ann")
            request.received_at = harness.clock() - 9.95
            assert await harness.refused(request) == "auth_unavailable"

    async def test_unavailable_says_when_to_come_back(self, harness: HandshakeHarness) -> None:
        """As the verifier reports."""
        harness.verifier.verdicts["away"] = Unavailable("jwks timed out", 7)
        decision = await harness.decide(head("away"))
        assert isinstance(decision, Deny)
        assert (decision.refusal.code, decision.refusal.retry_after_s) == ("auth_unavailable", 7)

    async def test_a_client_that_hangs_up_leaves_nothing(self, harness: HandshakeHarness) -> None:
        """The edge cancels the wait."""
        harness.verifier.hung = {"ann"}
        decision = harness.handshakes.decide(head("ann"))
        assert isinstance(decision, Awaitable)
        task = asyncio.ensure_future(decision)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (harness.limiter.total, harness.bugs) == (0, [])


class TestTickets:
    """`?ticket=`."""

    async def test_admits_once_with_the_asker_s_rights(self, harness: HandshakeHarness) -> None:
        """Bound to the whole identity."""
        ticket = await harness.ticket(Identity(subject="ann", plan="early", permissions=("admin",)))
        context = await harness.seed(head(query=f"ticket={ticket}"))
        assert context.identity == Identity(subject="ann", plan="early", permissions=("admin",))
        assert await harness.refused(head(query=f"ticket={ticket}")) == "ticket_invalid"

    async def test_of_a_hundred_in_parallel_one_gets_in(self, tmp_path: Path) -> None:
        """Single use is atomic. (The handshake that took the ticket must not time out on a slow disk.)"""
        async with open_entrance(tmp_path, wait_s=60) as harness:
            ticket = await harness.ticket(ANN)
            decisions = await asyncio.gather(
                *(harness.decide(head(query=f"ticket={ticket}")) for _ in range(100))
            )
            assert sum(isinstance(decision, Accept) for decision in decisions) == 1
            assert harness.limiter.total == 1

    async def test_lives_thirty_seconds(self, harness: HandshakeHarness) -> None:
        """And no longer than the credential that it was made from."""
        ticket = await harness.ticket(ANN)
        harness.clock.now += 31
        assert await harness.refused(head(query=f"ticket={ticket}")) == "ticket_invalid"
        dying = await harness.ticket(Identity(subject="ann", expires_at=harness.clock() - 25))
        harness.clock.now += 10
        assert (await harness.seed(head(query=f"ticket={dying}"))).admit.inert == "expired"

    async def test_preflight_does_not_use_it_up(self, harness: HandshakeHarness) -> None:
        """It only reads."""
        ticket = await harness.ticket(ANN)
        for _ in range(3):
            asked = await harness.handshakes.preflight(head(query=f"ticket={ticket}"))
            assert not isinstance(asked.outcome, Refusal)
            assert asked.outcome.identity == ANN
        assert harness.limiter.total == 0
        assert (await harness.seed(head(query=f"ticket={ticket}"))).identity == ANN

    async def test_is_not_used_up_by_a_refused_handshake(self, harness: HandshakeHarness) -> None:
        """A foreign page or a bad second token must not cost the user the ticket."""
        ticket = await harness.ticket(ANN)
        query = f"ticket={ticket}"
        assert (
            await harness.refused(head(None, ("origin", "https://evil.org"), query=query))
            == "origin_not_allowed"
        )
        assert await harness.refused(head("forged", query=query)) == "token_invalid"
        assert (await harness.seed(head(query=query))).identity == ANN

    async def test_names_the_same_subject_or_conflicts(self, harness: HandshakeHarness) -> None:
        """Beside a token."""
        assert (await harness.seed(head("ann", query=f"ticket={await harness.ticket(ANN)}"))).identity == ANN
        query = f"ticket={await harness.ticket(ANN)}"
        assert await harness.refused(head("bob", query=query)) == "credential_conflict"

    async def test_a_store_that_is_away_is_not_a_bad_ticket(
        self, harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """503: the ticket may be valid."""

        async def away(ticket_hash: str, now: float) -> str | None:
            raise DependencyError("store", "It is away.", retry_after_s=3)

        monkeypatch.setattr(harness.store.credentials, "take_ticket", away)
        decision = await harness.decide(head(query="ticket=abc"))
        assert isinstance(decision, Deny)
        assert (decision.refusal.code, decision.refusal.retry_after_s) == ("auth_unavailable", 3)

    async def test_probes_hold_no_slot(self, harness: HandshakeHarness) -> None:
        """Health's own handshakes are outside the users' limits."""
        probe = Identity(subject="health", tenant="probe", identity_class=IdentityClass.PROBE)
        context = await harness.seed(head(query=f"ticket={await harness.ticket(probe)}"))
        assert (context.identity, harness.limiter.total) == (probe, 0)
        context.release()
        assert (harness.limiter.total, harness.meter.live) == (0, {})


class TestRevoked:
    """With any carrier."""

    async def test_a_revoked_identity_is_refused(self, harness: HandshakeHarness) -> None:
        """By token, by ticket, expired, and in-band."""
        ticket = await harness.ticket(ANN)
        context = await harness.seed(head())
        await harness.revocations.revoke(
            Revocation(kind="subject", tenant="default", value="ann", at=NOW, until=NOW + 99)
        )
        assert await harness.refused(head("ann")) == "token_revoked"
        assert await harness.refused(head(query=f"ticket={ticket}")) == "token_revoked"
        harness.verifier.verdicts["old"] = Rejected("token_expired", expired=ANN)
        assert await harness.refused(head("old")) == "token_revoked"
        outcome = harness.in_band.admit(context, "ann")
        assert isinstance(outcome, Refusal)
        assert outcome.code == "token_revoked"
        assert (await harness.seed(head("bob"))).identity == BOB

    async def test_operators_see_whom_a_verified_credential_names(self, harness: HandshakeHarness) -> None:
        """Of a revoked token, an expired one, one over a limit, and one in-band; of a forged one no user."""
        inert = await harness.seed(head())
        assert await harness.refused(head("forged")) == "token_invalid"
        assert isinstance(harness.in_band.admit(inert, "forged"), Refusal)
        harness.verifier.verdicts["old"] = Rejected("token_expired", expired=BOB)
        offer = ("sec-websocket-protocol", "narthex.explain")
        assert await harness.refused(head("old", offer)) == "token_expired"
        await harness.revocations.revoke(
            Revocation(kind="subject", tenant="default", value="ann", at=NOW, until=NOW + 99)
        )
        assert await harness.refused(head("ann")) == "token_revoked"
        assert isinstance(harness.in_band.admit(inert, "ann"), Refusal)
        seen = [(one.code, one.user, one.carriers) for one in harness.refusals.take()[0]]
        assert seen == [
            ("token_invalid", "", ["authorization"]),
            ("token_invalid", "", ["connect_token"]),
            ("token_expired", "bob", ["authorization"]),
            ("token_revoked", "ann", ["authorization"]),
            ("token_revoked", "ann", ["connect_token"]),
        ]

    async def test_also_when_it_is_revoked_while_it_waits(
        self, harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The audit record of a test identity is written between the verdict and the admission."""
        revocation = Revocation(kind="subject", tenant="e2e", value="e2e:r", at=NOW, until=NOW + 99)
        audit = harness.store.records.audit

        async def slowly(record: AuditRecord) -> None:
            await audit(record)
            await harness.revocations.revoke(revocation)

        monkeypatch.setattr(harness.store.records, "audit", slowly)
        request = head(None, ("x-e2e-bypass-key", KEY), ("x-e2e-test-run", "r"))
        assert await harness.refused(request) == "token_revoked"
        assert harness.limiter.total == 0


class TestConformance:
    """`/ws/conformance`."""

    async def test_admits_like_ws_with_limits_of_its_own(self, tmp_path: Path) -> None:
        """But never inert: a raw echo has no in-band authentication."""
        async with open_entrance(tmp_path, conformance=True) as harness:
            decision = await harness.decide(head("ann", path="/ws/conformance"))
            assert isinstance(decision, Accept)
            assert decision.limits == "conformance"
            assert await harness.refused(head(path="/ws/conformance")) == "auth_required"
            assert await harness.refused(head("forged", path="/ws/conformance")) == "token_invalid"
            assert harness.limiter.total == 1


class TestBroken:
    """Faults."""

    async def test_a_bug_is_answered_and_reported(self, harness: HandshakeHarness) -> None:
        """500 with the trace id of its log record."""
        harness.verifier.fault = RuntimeError("boom")
        decision = await harness.decide(head("ann"))
        assert isinstance(decision, Deny)
        assert decision.refusal.code == "internal"
        assert "boom" not in str(decision.refusal.problem(decision.trace_id))
        ((fault, trace_id),) = harness.bugs
        assert (str(fault), trace_id) == ("boom", decision.trace_id)

    async def test_a_bug_while_waiting_too(self, harness: HandshakeHarness) -> None:
        """Also after an awaited verdict."""
        harness.verifier.hung = {"ann"}
        harness.verifier.arrived.set()
        harness.receiver_fault = RuntimeError("boom")
        assert await harness.refused(head("ann")) == "internal"
        assert (len(harness.bugs), harness.limiter.total) == (1, 0)

    async def test_a_receiver_that_cannot_be_made_releases_its_slot(self, harness: HandshakeHarness) -> None:
        """However far the handshake had come, for users and test identities."""
        harness.receiver_fault = RuntimeError("boom")
        assert await harness.refused(head("ann")) == "internal"
        assert await harness.refused(head(None, ("x-e2e-bypass-key", KEY))) == "internal"
        assert (harness.limiter.total, sum(harness.meter.live.values())) == (0, 0)


class TestRecords:
    """`event=handshake`."""

    FIELDS = (
        "event", "outcome", "code", "environment", "is_testing", "is_e2e_testing", "carriers", "key_id",
        "algorithm", "identity_class", "test_run", "client", "trace_id", "duration_ms",
    )  # fmt: skip

    async def test_one_record_with_exactly_these_members(self, harness: HandshakeHarness) -> None:
        """Of every decision."""
        await harness.decide(head("ann"))
        (record,) = harness.records
        assert tuple(record) == self.FIELDS
        expected = {
            "event": "handshake", "outcome": "admitted", "code": "ok", "environment": "staging",
            "is_testing": False, "is_e2e_testing": True, "carriers": ["authorization"], "key_id": "k1",
            "algorithm": "ES256", "identity_class": "user", "test_run": "", "client": "127.0.0.1",
        }  # fmt: skip
        assert {name: record[name] for name in expected} == expected

    async def test_what_only_the_log_may_know_stands_beside(self, harness: HandshakeHarness) -> None:
        """With the same trace id."""
        await harness.decide(head("forged"))
        record, detail = harness.records
        assert (record["outcome"], record["code"]) == ("refused", "token_invalid")
        assert (detail["log_detail"], detail["trace_id"]) == ("not in the table", record["trace_id"])

    async def test_in_band_decisions_are_recorded_too(self, harness: HandshakeHarness) -> None:
        """With their own carrier and the connection's trace."""
        context = await harness.seed(head())
        harness.in_band.admit(context, "ann")
        record = harness.records[-1]
        assert tuple(record) == self.FIELDS
        assert (record["carriers"], record["trace_id"]) == (["connect_token"], context.trace_id)
        assert record["duration_ms"] == 0, "the clock stands still"

    async def test_none_is_built_when_debug_is_off(self, tmp_path: Path) -> None:
        """The hot path has no cost for it."""
        async with open_entrance(tmp_path, recording=False) as harness:
            await harness.decide(head("ann"))
            assert harness.records == []

    async def test_a_key_id_is_one_short_line(self, harness: HandshakeHarness) -> None:
        """It is text from the client: no log injection."""
        harness.verifier.verdicts["odd"] = Rejected("unknown_key", key_id="a\nb\x1b[31m" + "x" * 200)
        await harness.decide(head("odd"))
        key_id = harness.records[0]["key_id"]
        assert isinstance(key_id, str)
        assert key_id.isprintable()
        assert len(key_id) <= 64

    async def test_no_piece_of_a_secret_is_anywhere(self, harness: HandshakeHarness) -> None:
        """Canaries in every carrier: no 8 characters of one in records, refusals or reprs."""
        canary = "cAnArY0123456789qwertyuiop"
        requests = [
            head(canary),
            head(f"{canary} {canary}"),
            head(None, ("authorization", f"Basic {canary}")),
            head(None, ("sec-websocket-protocol", f"jwt-auth, jwt.{canary}")),
            head(None, ("sec-websocket-protocol", f"jwt.{canary}")),
            head(None, ("sec-websocket-protocol", f"jwt, {canary}, é")),
            head(None, ("cookie", f"narthex_session={canary}"), ("origin", PAGE)),
            head(None, ("cookie", f"narthex_session={canary}; narthex_session=x{canary}"), ("origin", PAGE)),
            head(query=f"ticket={canary}"),
            head(query=f"token={canary}"),
            head(query=f"q=eyJ{canary}.{canary}.{canary}"),
            head(None, ("x-e2e-bypass-key", canary)),
            head("ann", ("x-e2e-bypass-key", canary)),
            head(None, ("x-e2e-test-run", f"{canary} {canary}")),
            head("ann", ("traceparent", canary)),
            head("ann", ("origin", f"https://{canary}")),
            head("ann", host=canary),
        ]
        said = []
        for request in requests:
            decision = await harness.decide(request)
            asked = await harness.handshakes.preflight(request)
            said.append(repr(decision) + repr(asked))
            if isinstance(decision, Deny):
                said.append(
                    str(decision.refusal.problem(decision.trace_id)) + str(decision.refusal.headers())
                )
        everything = repr(harness.records) + "".join(said)
        pieces = {canary[at : at + 8] for at in range(len(canary) - 7)}
        assert not [piece for piece in pieces if piece in everything]


async def test_the_edge_s_own_refusals_are_counted(harness: HandshakeHarness) -> None:
    """With a trace id for their body, also without a request head."""
    assert len(harness.handshakes.refused_early(Refusal(code="handshake_timeout"), None)) == 32
    request = head(None, ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01"))
    assert harness.handshakes.refused_early(Refusal(code="head_too_large"), request) == TRACE
    assert harness.meter.counted["handshake", "refused", "handshake_timeout", "user"] == 1
    assert harness.records[-1]["code"] == "head_too_large"


class TestPreflight:
    """The same verdict without an upgrade."""

    async def test_agrees_with_the_upgrade(self, harness: HandshakeHarness) -> None:
        """For every combination of credentials, as a client that sees reasons."""
        harness.verifier.verdicts |= {
            "old": Rejected("token_expired", expired=ANN),
            "away": Unavailable("away"),
        }
        explain = ("sec-websocket-protocol", "narthex.explain")
        tokens = [None, "ann", "bob", "forged", "old", "away"]
        origins: list[list[tuple[str, str]]] = [[], [("origin", PAGE)], [("origin", "https://evil.org")]]
        cookies: list[list[tuple[str, str]]] = [
            [],
            *([("cookie", f"narthex_session={t}")] for t in tokens if t),
        ]
        keys: list[list[tuple[str, str]]] = [[], [("x-e2e-bypass-key", KEY)]]
        seen = set()
        for token in tokens:
            for more in (o + c + k for o in origins for c in cookies for k in keys):
                for query in ("", "token=x", "ticket=unknown"):
                    request = head(token, explain, *more, query=query)
                    decision = await harness.decide(request)
                    asked = (await harness.handshakes.preflight(request)).outcome
                    if isinstance(decision, Deny):
                        assert isinstance(asked, Refusal)
                        assert asked.code == decision.refusal.code
                        assert asked.carriers_checked == decision.refusal.carriers_checked
                        seen.add(asked.code)
                    else:
                        assert isinstance(decision.receiver, RecordingHandler)
                        assert not isinstance(asked, Refusal)
                        admitted = decision.receiver.context.admit
                        assert (asked.identity is None) == (admitted.identity is None)
                        assert asked.inert == admitted.inert
                        decision.receiver.closed(1000, "")
        assert seen == {
            "token_invalid", "token_expired", "auth_unavailable", "origin_not_allowed", "credential_conflict",
            "credential_in_url", "ticket_invalid",
        }  # fmt: skip
        assert harness.limiter.total == 0

    async def test_reports_a_reached_connection_limit(self, harness: HandshakeHarness) -> None:
        """Free has ten connections; preflight itself takes none."""
        for _ in range(10):
            await harness.seed(head("ann"))
        asked = await harness.handshakes.preflight(head("ann"))
        assert isinstance(asked.outcome, Refusal)
        assert asked.outcome.code == "connection_limit"
        assert not isinstance((await harness.handshakes.identify(head("ann"))).outcome, Refusal)

    async def test_a_same_origin_get_has_no_origin(self, harness: HandshakeHarness) -> None:
        """Browsers send `Sec-Fetch-Site` instead, which no page can set; the upgrade does not accept it."""
        cookie = ("cookie", "narthex_session=ann")
        same = await harness.handshakes.preflight(head(None, cookie, ("sec-fetch-site", "same-origin")))
        assert not isinstance(same.outcome, Refusal)
        for site in ("cross-site", "same-site", "none"):
            asked = await harness.handshakes.preflight(head(None, cookie, ("sec-fetch-site", site)))
            assert isinstance(asked.outcome, Refusal)
            assert asked.outcome.code == "origin_not_allowed"
        assert (
            await harness.refused(head(None, cookie, ("sec-fetch-site", "same-origin")))
            == "origin_not_allowed"
        )


def test_a_client_hears_503_within_two_seconds() -> None:
    """The deadline for keys and store together, as documented (docs/security.md)."""
    assert WAIT_S == 1.8


async def test_a_revocation_while_the_record_is_written_gives_the_slot_back(
    harness: HandshakeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does a failing record: a refused handshake must not hold a slot for ever."""
    key = ("x-e2e-bypass-key", KEY)
    run = ("x-e2e-test-run", "r")
    real = harness.store.records.audit

    async def revoked_meanwhile(record: AuditRecord) -> None:
        await real(record)
        await harness.revocations.revoke_subject("e2e", "e2e:r", until=NOW + 60, reason="now")

    async def away(record: AuditRecord) -> None:
        raise DependencyError("store", "It is away.")

    for audit, code in ((away, "auth_unavailable"), (revoked_meanwhile, "token_revoked")):
        monkeypatch.setattr(harness.store.records, "audit", audit)
        assert await harness.refused(head(None, key, run)) == code
        assert (harness.limiter.total, harness.limiter.of_user("e2e/e2e:r")) == (0, 0)
