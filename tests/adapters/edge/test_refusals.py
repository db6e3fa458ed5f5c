"""Every refusal over a real socket: the answer to the byte, then FIN, never RST."""

from __future__ import annotations

import json
import re
import socket
import time
from types import SimpleNamespace
from typing import cast

import pytest

from narthex.adapters.edge.limits import EdgeLimits
from narthex.adapters.edge.responses import refusal_response
from narthex.adapters.edge.tcp import Lingering, TcpConnection
from narthex.domain.refusals import TABLE, Refusal
from tests.adapters.edge.harness import KEY, PathHandler, Running, upgrade

PLAIN_UPGRADE = ("Connection: Upgrade", "Upgrade: websocket")
REQUESTS = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01", "bad_request"),
    "obs-fold": (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", "bad_request"),
    "header line of 70 KB": (b"GET / HTTP/1.1\r\nCookie: " + b"c" * 70_000 + b"\r\n\r\n", "head_too_large"),
    "129 headers": (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 129 + b"\r\n", "head_too_large"),
    "long target": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", "head_too_large"),
    "foreign host": (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "bad_request"),
    "foreign host upgrade": (upgrade(host="evil.example"), "bad_request"),
    "host with a path": (b"GET / HTTP/1.1\r\nHost: localhost/livez\r\n\r\n", "bad_request"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", "bad_request"),
    "h2c": (
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n",
        "bad_request",
    ),
    "post upgrade": (upgrade().replace(b"GET", b"POST", 1), "upgrade_required"),
    "upgrade with a body": (upgrade(extra="Content-Length: 5\r\n") + b"hello", "bad_request"),
    "chunked upgrade": (upgrade(extra="Transfer-Encoding: chunked\r\n") + b"0\r\n\r\n", "bad_request"),
    "no key": (upgrade().replace(KEY.encode(), b""), "bad_request"),
    "version 8": (upgrade().replace(b": 13", b": 8"), "upgrade_required"),
    "http/1.0 upgrade": (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), "upgrade_required"),
    "no upgrade header": (b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n", "upgrade_required"),
    "unknown path": (upgrade("/elsewhere"), "no_route"),
    "non-ASCII subprotocol": (upgrade(extra="Sec-WebSocket-Protocol: \xfc\r\n"), "bad_request"),
    "two origins": (upgrade(extra="Origin: http://a\r\nOrigin: http://b\r\n"), "bad_request"),
    "foreign absolute target": (
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "bad_request",
    ),
    "connect": (b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", "bad_request"),
    "head on /ws": (b"HEAD /ws HTTP/1.1\r\nHost: localhost\r\n\r\n", "upgrade_required"),
}
DATE = re.compile(rb"date: [^\r]+\r\n")


@pytest.mark.parametrize("name", sorted(REQUESTS))
def test_refused_early(server: Running, name: str) -> None:
    """Status, headers, problem body, FIN; recorded by the upgrade handler with its trace id."""
    request, code = REQUESTS[name]
    with server.peer() as peer:
        peer.send(request)
        answer = peer.rest()
    problem = json.loads(answer.split(b"\r\n\r\n", 1)[1] or b"{}")
    assert server.gate.early.get(timeout=5)[0] == code
    common = DATE.search(answer)
    assert common is not None
    is_head = request.startswith(b"HEAD")
    detail = problem.get("detail") or "No `Upgrade` header arrived. " + STRIPPED
    refusal = Refusal(code=code, detail=detail)
    assert answer == refusal_response(refusal, "trace-0", common=common[0], head=is_head)
    assert answer.startswith(f"HTTP/1.1 {TABLE[code].http} ".encode())
    if not is_head:
        assert problem["code"] == code
        assert problem["trace_id"] == "trace-0"


STRIPPED = "A proxy in between may strip `Upgrade` and `Connection`: they are hop-by-hop."


@pytest.mark.parametrize("name", ["garbage", "foreign host", "no key", "head_too_large"])
def test_the_answer_survives_what_is_still_being_sent(server: Running, name: str) -> None:
    """A peer that continues to send reads the answer and the FIN, not an RST."""
    request = b"GET /" + b"a" * 20_000 if name == "head_too_large" else REQUESTS[name][0]
    with server.peer() as peer:
        peer.send(request)
        head = peer.head()
        for _ in range(20):
            peer.send(b"z" * 10_000)
        body = peer.rest()
    server.gate.early.get(timeout=5)
    assert head.status in (400, 431)
    assert len(body) == int(head.headers["content-length"])


def test_an_incomplete_head_that_ends_is_answered(server: Running) -> None:
    """Half a request and FIN: the peer can still read, so it gets an answer."""
    with server.peer() as peer:
        peer.send(b"GET / HTTP/1.1\r\nHost: loc")
        peer.half_close()
        head, body = peer.answer()
        assert head.status == 400
        assert b"ended before" in body
        assert peer.rest() == b""
    server.gate.early.get(timeout=5)


def test_a_connection_that_says_nothing_is_not_answered(server: Running) -> None:
    """A load balancer's TCP probe opens and closes: no request, no answer, no record."""
    with server.peer() as peer:
        peer.half_close()
        assert peer.rest() == b""
    assert server.gate.early.empty()


def test_the_gates_refusal(server: Running) -> None:
    """Deny: problem, Retry-After, the app's extra headers, FIN."""
    with server.peer() as peer:
        peer.send(upgrade("/deny") + b"\x81\x80\0\0\0\0")
        head, body = peer.answer()
        assert peer.rest() == b""
    assert head.status == 503
    assert head.headers["retry-after"] == "3"
    assert head.headers["x-extra"] == "yes"
    assert head.headers["connection"] == "close"
    problem = json.loads(body)
    assert problem["trace_id"] == "trace-1"
    assert problem["carriers_checked"] == ["header"]


@pytest.mark.parametrize(
    ("offered", "selected"),
    [
        ("narthex.explain", "narthex.explain"),
        ("jwt-auth, jwt.x.y.z, narthex.explain", "narthex.explain"),
    ],
)
def test_a_refusal_that_explains_itself(server: Running, offered: str, selected: str) -> None:
    """101, the subprotocol that says so, and a close frame with the real code, which a browser can show."""
    with server.websocket("/explain", extra=f"Sec-WebSocket-Protocol: {offered}\r\n") as peer:
        assert peer.close_frame() == (3500, "token_expired: The token has expired")
        peer.send(b"\x88\x82\0\0\0\0\x0d\xac")
        assert peer.rest() == b""
    with server.peer() as peer:
        peer.send(upgrade("/explain", extra=f"Sec-WebSocket-Protocol: {offered}\r\n"))
        assert peer.head().headers["sec-websocket-protocol"] == selected


def test_a_gate_that_fails_is_a_500_with_a_trace(server: Running) -> None:
    """Not a hang, not a bare close."""
    with server.peer() as peer:
        peer.send(upgrade("/broken"))
        head, body = peer.answer()
        assert head.status == 500
        assert json.loads(body)["code"] == "internal"
        assert peer.rest() == b""
    assert server.gate.early.get(timeout=5)[0] == "internal"


@pytest.mark.parametrize("path", ["/forged", "/unoffered"])
def test_an_answer_that_must_not_be_sent(server: Running, path: str) -> None:
    """A line break in a header, or a subprotocol that was not offered: 500, and the receiver is released."""
    with server.peer() as peer:
        peer.send(upgrade(path))
        assert peer.answer()[0].status == 500
        assert peer.rest() == b""
    receiver = server.gate.receivers.get(timeout=5)
    assert [receiver.next(), receiver.next()] == [("opened",), ("closed", 1006, "")]
    assert server.gate.early.get(timeout=5)[0] == "internal"


def test_a_decision_that_takes_time(server: Running) -> None:
    """Early bytes are kept and delivered behind the 101."""
    with server.peer() as peer:
        peer.send(upgrade("/slow") + b"\x81\x82\0\0\0\0h")
        release = server.gate.waiting.get(timeout=5)
        peer.send(b"i\x81\x80\0\0\0\0")
        server.call(lambda: release.set_result(None))
        assert peer.head().status == 101
        receiver = server.gate.receivers.get(timeout=5)
        assert [receiver.next() for _ in range(3)] == [
            ("opened",),
            ("message", b"hi", False),
            ("message", b"", False),
        ]


def test_early_bytes_are_bounded(server: Running) -> None:
    """Past 64 KB reading pauses: the peer blocks, the memory does not grow; the refusal still arrives."""
    with server.peer() as peer:
        peer.send(upgrade("/slow-deny"))
        release = server.gate.waiting.get(timeout=5)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
        peer.socket.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 64 << 20:
                sent += peer.socket.send(bytes(65_536))
        assert sent < 16 << 20  # what the kernel's buffers hold
        peer.socket.settimeout(10)
        server.call(lambda: release.set_result(None))
        assert peer.answer()[0].status == 401


def test_a_peer_that_leaves_cancels_its_decision(server: Running) -> None:
    """The upgrade handler's coroutine is cancelled and can release its resources."""
    server.gate.cancelled.clear()
    with server.peer() as peer:
        peer.send(upgrade("/slow"))
        server.gate.waiting.get(timeout=5)
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    assert server.gate.cancelled.wait(10)


def test_a_peer_that_half_closes_while_it_waits(server: Running) -> None:
    """A refusal still reaches it; an accepted one is opened, and closed as broken."""
    with server.peer() as peer:
        peer.send(upgrade("/slow-deny"))
        release = server.gate.waiting.get(timeout=5)
        peer.half_close()
        time.sleep(0.05)  # let the FIN arrive before the decision, the case under test
        server.call(lambda: release.set_result(None))
        assert peer.answer()[0].status == 401
        assert peer.rest() == b""
    with server.peer() as peer:
        peer.send(upgrade("/slow"))
        release = server.gate.waiting.get(timeout=5)
        peer.half_close()
        time.sleep(0.05)
        server.call(lambda: release.set_result(None))
        assert peer.head().status == 101
        receiver = server.gate.receivers.get(timeout=5)
        assert [receiver.next(), receiver.next()] == [("opened",), ("closed", 1006, "")]
        assert peer.rest() == b""


def test_deadlines_of_the_handshake() -> None:
    """A partial head gets 408 and FIN, silence gets FIN, an upgrade handler that never answers 503; a request in time
    lives.
    """
    with (
        Running(EdgeLimits(handshake_s=0.6), handler=PathHandler()) as server,
        server.peer() as partial,
        server.peer() as silent,
        server.peer() as slow,
        server.peer() as second,
    ):
        started = time.monotonic()
        partial.send(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        slow.send(upgrade("/slow"))
        second.send(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\nGET /b HT")
        assert partial.answer()[0].status == 408
        assert partial.rest() == b""
        assert 0.6 <= time.monotonic() - started < 3
        assert silent.rest() == b""
        head, body = slow.answer()
        assert head.status == 503
        assert json.loads(body)["code"] == "overloaded"
        assert server.gate.cancelled.wait(5)
        assert second.answer()[1] == b"/a|"
        assert second.answer()[0].status == 408
        assert second.rest() == b""


def test_an_upgrade_on_a_kept_connection_has_a_deadline_of_its_own() -> None:
    """A proxy sends it behind another request; a handler that never answers must not hold the connection."""
    with Running(EdgeLimits(handshake_s=0.6)) as server, server.peer() as peer:
        peer.send(b"GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert peer.answer()[1] == b"/a|"
        peer.send(upgrade("/slow"))
        head, body = peer.answer()
        assert (head.status, json.loads(body)["code"]) == (503, "overloaded")
        assert server.gate.cancelled.wait(5)


def test_a_lingering_peer_is_read_up_to_the_bound() -> None:
    """At the bound reading goes on, so that a refusal is not lost to a reset; one byte more stops it."""
    paused: list[bool] = []
    transport = SimpleNamespace(pause_reading=lambda: paused.append(True))
    edge = SimpleNamespace(limits=EdgeLimits(linger_bytes=1_000))
    lingering = Lingering(cast("TcpConnection", SimpleNamespace(transport=transport, edge=edge)))
    lingering.data_received(b"x" * 1_000)
    assert paused == []
    lingering.data_received(b"x")
    assert paused == [True]


def test_a_lingering_peer_is_dropped_in_the_end() -> None:
    """A peer that neither reads nor closes after a refusal holds the connection for `linger_s`, not for ever."""
    with Running(EdgeLimits(linger_s=0.2, linger_bytes=100_000)) as server:
        with server.peer() as peer:
            peer.send(b"garbage\r\n\r\n")
            assert peer.answer()[0].status == 400
            peer.socket.settimeout(10)
            with pytest.raises(OSError, match=r"reset|pipe"):
                while True:  # never reads, never closes
                    peer.send(bytes(65_536))
        deadline = time.monotonic() + 5
        while server.edge.open and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.edge.open == 0


def test_too_many_connections() -> None:
    """Past the process's limit: 503 at accept, and the count goes down again."""
    with Running(EdgeLimits(connections=2)) as server:
        with server.websocket(), server.websocket(), server.peer() as third:
            head, body = third.answer()
            assert head.status == 503
            assert head.headers["retry-after"] == "5"
            assert json.loads(body)["code"] == "overloaded"
        deadline = time.monotonic() + 5
        while server.edge.open and time.monotonic() < deadline:
            time.sleep(0.01)
        with server.websocket():
            pass
