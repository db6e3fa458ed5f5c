"""The record of a connection's end: its members, and what never stands in it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from narthex.app.connection_context import ConnectionContext
from narthex.app.connection_limits import ConnectionLimiter
from narthex.app.connection_record import Carried, ConnectionRecorder, fingerprint
from narthex.domain.admission import Admit
from narthex.domain.identity import Identity
from narthex.domain.limits import Limits
from narthex.domain.plans import PLANS
from narthex.domain.refusals import Refusal
from narthex.ports.edge import SendProgress
from narthex.protocol.codes import FORCE_RECONNECT, FORCED, REVOKED, TOKEN_LIFE_ENDED
from tests.app.runs.fakes import FakeMeter

ANN = Identity(subject="ann", tenant="acme", test_run="")


def record_of(
    code: int = 1000,
    reason: str = "",
    carried: Carried | None = None,
    *,
    identity: Identity | None = ANN,
    now: float = 107.25,
) -> Mapping[str, object]:
    """The record of one end."""
    kept: list[Mapping[str, object]] = []
    limiter = ConnectionLimiter(Limits(), PLANS, FakeMeter())
    slot = limiter.acquire("192.0.2.1", identity)
    assert not isinstance(slot, Refusal)
    context = ConnectionContext(
        Admit(identity=identity), slot, trace_id="t" * 32, address="192.0.2.1", started_at=100.0
    )
    recorder = ConnectionRecorder(kept.append, lambda: now)
    if carried is None:
        recorder.ended(context, code, reason)
    else:
        recorder.ended(context, code, reason, carried)
    return kept[0]


def test_its_members() -> None:
    """Exactly these; the user is a fingerprint that the documented command makes as well."""
    assert record_of(3005, TOKEN_LIFE_ENDED.reason, Carried(120, 340)) == {
        "event": "connection_end",
        "transport": "websocket",
        "code": 3005,
        "reason": TOKEN_LIFE_ENDED.reason.partition(":")[0],
        "duration_s": 7.25,
        "bytes_in": 120,
        "bytes_out": 340,
        "messages_in": None,
        "messages_out": None,
        "user": "58158820c40bcd7c",
        "identity_class": "user",
        "test_run": "",
        "client": "192.0.2.1",
        "trace_id": "t" * 32,
    }


@pytest.mark.parametrize("disconnect", [REVOKED, FORCE_RECONNECT, FORCED, TOKEN_LIFE_ENDED])
def test_a_reason_of_ours_is_a_word(disconnect: object) -> None:
    """Not the sentence behind it."""
    reason = disconnect.reason  # type: ignore[attr-defined]  # a Disconnect
    assert record_of(3000, reason)["reason"] == reason.partition(":")[0]
    assert record_of(3000, reason)["reason"]


@pytest.mark.parametrize(
    "reason", ["bye", "my token is eyJhbGciOi", "a\nb", "draining2: x", ": x", "x" * 123]
)
def test_a_clients_text_is_not_written(reason: str) -> None:
    """It may hold a secret, or the beginning of another line."""
    assert record_of(4000, reason)["reason"] == ""


def test_an_unproven_connection_has_no_user() -> None:
    """And a clock that was set back makes no negative duration."""
    record = record_of(identity=None, now=90.0)
    assert (record["user"], record["identity_class"], record["duration_s"]) == ("", "", 0.0)


def test_bytes_that_the_kernel_does_not_tell_are_unknown() -> None:
    """A WebSocket has always carried some, so that 0 is no count."""
    assert Carried.of(SendProgress(0, 5, 0, 0)) == Carried()
    assert Carried.of(SendProgress(0, 5, 7, 9)) == Carried(7, 9)


def test_users_of_two_tenants_differ() -> None:
    """Also where their names, joined, are the same."""
    one = fingerprint(Identity(subject="bc", tenant="a"))
    assert one != fingerprint(Identity(subject="c", tenant="ab"))
