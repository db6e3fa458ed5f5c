"""The bytes of refusals and of the 101."""

from __future__ import annotations

import json

import pytest

from narthex.adapters.edge.responses import header_lines, refusal_response, switching_protocols
from narthex.domain.refusals import TABLE, Refusal
from narthex.errors import Bug
from tests.adapters.edge.harness import ACCEPT, KEY


@pytest.mark.parametrize("code", sorted(TABLE))
def test_every_refusal_is_a_problem(code: str) -> None:
    """Status line, content type, length, and a body with all members of RFC 9457 and ours."""
    raw = refusal_response(Refusal(code=code, retry_after_s=2), "trace", common=b"date: x\r\n")
    head, body = raw.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    status = TABLE[code].http or 400
    assert lines[0].startswith(f"HTTP/1.1 {status} ")
    assert lines[1] == "date: x"
    assert f"Content-Length: {len(body)}" in lines
    assert "Content-Type: application/problem+json" in lines
    assert "Cache-Control: no-store" in lines
    assert "Retry-After: 2" in lines
    assert lines[-1] == ("Connection: Upgrade, close" if code == "upgrade_required" else "Connection: close")
    problem = json.loads(body)
    assert list(problem) == [
        "type", "title", "status", "code", "detail", "remedy", "trace_id", "carriers_checked",
    ]  # fmt: skip
    assert problem["code"] == code
    assert problem["trace_id"] == "trace"
    if status == 401:
        assert any(line.startswith("WWW-Authenticate: Bearer") for line in lines)


def test_head_gets_no_body() -> None:
    """The length is sent, the body is not."""
    raw = refusal_response(Refusal(code="no_route"), "t", head=True)
    assert raw.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0\r\n" not in raw


def test_the_101_to_the_byte() -> None:
    """RFC 6455's own sample."""
    prefix = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {ACCEPT}\r\n"
    )
    assert switching_protocols(KEY, subprotocol=None, extension="", extra=[]) == (prefix + "\r\n").encode()
    assert (
        switching_protocols(KEY, subprotocol="jwt-auth", extension="x-e", extra=[("A", "b")])
        == (
            prefix + "A: b\r\nSec-WebSocket-Protocol: jwt-auth\r\nSec-WebSocket-Extensions: x-e\r\n\r\n"
        ).encode()
    )


@pytest.mark.parametrize("value", ["a\r\nB: c", "a\nB: c", "a\rb", "a\0b", "\u20ac"])
def test_a_header_cannot_leave_its_line(value: str) -> None:
    """Header injection is a named bug, not an answer."""
    with pytest.raises(Bug):
        header_lines([("X", value)])
    with pytest.raises(Bug):
        header_lines([(value, "x")])
