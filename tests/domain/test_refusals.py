"""`narthex.domain.refusals`: the table of docs/design.md#admission, and how a refusal looks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.refusals import TABLE, Refusal, close_reason

SECTION_3: dict[tuple[int | None, int | None], str] = {
    (401, 3500): "auth_required token_malformed token_invalid token_expired token_not_yet_valid wrong_issuer "
    "wrong_audience algorithm_not_allowed unknown_key token_revoked ticket_invalid e2e_key_wrong",
    (400, 3501): "credential_in_url credential_conflict bad_request",
    (None, 3502): "silence",
    (None, 3506): "inappropriate_protocol",
    (403, 3507): "origin_not_allowed permission_denied tenant_mismatch e2e_not_allowed_here",
    (429, 4004): "connection_limit",
    (429, 3013): "rate_limited",
    (503, 4001): "starting",
    (503, 4002): "auth_unavailable",
    (503, 4003): "overloaded",
    (503, 3001): "draining",
    (502, 4005): "upstream_refused upstream_invalid",  # section 12, the guard
    (503, 4006): "upstream_gone",
    (504, 4007): "upstream_timeout",
    (None, 3507): "upstream_denied",
    (None, 4005): "upstream_failed",
    (404, None): "no_route",
    (408, None): "handshake_timeout",
    (426, None): "upgrade_required",
    (431, None): "head_too_large",
    (None, 3005): "expired",
    (None, 3008): "slow",
    (None, 3010): "insufficient_state",
    (None, 3012): "no_pong",
    (500, 1011): "internal",
    (422, None): "body_invalid",  # of the simulation exchange: section 2
}


def test_the_table_is_the_design_s() -> None:
    """Status and close code of every outcome, and no outcome that the design does not know."""
    expected = {code: pair for pair, codes in SECTION_3.items() for code in codes.split()}
    assert {code: (row.http, row.close) for code, row in TABLE.items()} == expected
    assert TABLE["auth_required"].title == "Authentication required"


@pytest.mark.parametrize("code", TABLE)
def test_every_row_can_be_said(code: str) -> None:
    """A problem body with every member, a title, a remedy, and a close reason that fits."""
    refusal = Refusal(code=code, carriers_checked=("authorization",), log_detail="for the log")
    problem = refusal.problem("a" * 32)
    assert list(problem) == [
        "type", "title", "status", "code", "detail", "remedy", "trace_id", "carriers_checked",
    ]  # fmt: skip
    assert all(problem.values())
    assert "for the log" not in str(problem)
    _, reason = refusal.close()
    assert reason.startswith(f"{code}: ")
    assert len(reason.encode()) <= 123
    assert not reason.startswith("{")  # SDKs parse a reason that is JSON


def test_challenges_are_where_they_belong() -> None:
    """RFC 6750 section 3.1: no error attribute when nothing was sent; Retry-After only where it was given."""
    for code, row in TABLE.items():
        headers = dict(Refusal(code=code).headers())
        assert ("WWW-Authenticate" in headers) == (row.http == 401)
        assert "Retry-After" not in headers
    assert "error" not in dict(Refusal(code="auth_required").headers())["WWW-Authenticate"]
    assert 'error="invalid_token"' in dict(Refusal(code="token_expired").headers())["WWW-Authenticate"]
    assert dict(Refusal(code="overloaded", retry_after_s=7).headers())["Retry-After"] == "7"


@given(st.text(max_size=200))
def test_a_close_reason_is_cut_at_a_character(text: str) -> None:
    """RFC 6455 section 5.5: at most 123 bytes, and valid UTF-8."""
    usable = text.encode(errors="ignore").decode()
    reason = close_reason("code", usable)
    assert len(reason.encode()) <= 123
    assert f"code: {usable}".startswith(reason)


def test_an_upgrade_that_is_required_says_to_what() -> None:
    """RFC 9110 section 15.5.22 and RFC 6455 section 4.4: the protocol, and the version that is spoken."""
    headers = dict(Refusal(code="upgrade_required").headers())
    assert (headers["Upgrade"], headers["Sec-WebSocket-Version"]) == ("websocket", "13")
    assert "Upgrade" not in dict(Refusal(code="bad_request").headers())
