"""The upstream's handshake: what it gets, what of its answer passes, and each way in which it can fail."""

from __future__ import annotations

import json
import socket
import time

import pytest

from narthex.adapters.edge.limits import EdgeLimits
from tests.adapters.edge.harness import ACCEPT, Running, upgrade
from tests.adapters.edge.upstream.harness import Guarding
from tests.adapters.edge.upstream.raw import SWITCHING, RawUpstream, reset

FRAME = b"\x81\x01a"
ACCEPTED = f"Sec-WebSocket-Accept: {ACCEPT}\r\n".encode()


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_the_upstream_gets_the_request_as_it_was(upstream: Running, guard: Guarding) -> None:
    """Path, query, Host and the application's headers; forwarding headers are the guard's own."""
    extra = (
        "X-Own: 1\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n"
        "X_Forwarded_For: 6.6.6.6\r\nX.Real.IP: 6.6.6.6\r\n"
    )
    with guard.websocket("/ws?room=a%20b&x", extra=extra):
        assert guard.admitted().next() == ("opened",)
        head = upstream.gate.heads.get(timeout=5)
    assert (head.path, head.query, head.get("host"), head.get("x-own")) == (
        "/ws",
        "room=a%20b&x",
        "localhost",
        "1",
    )
    assert head.all("x-forwarded-for") == ["192.0.2.7"]
    assert not [header for header in head.headers if "6.6.6.6" in header[1]]
    assert (head.get("forwarded"), head.get("x-hop"), head.get("narthex-subject")) == (None, None, "alice")
    assert guard.results.get(timeout=5) == "joined"


@pytest.mark.parametrize(
    ("offer", "chosen"),
    [
        ("jwt-auth, narthex.explain", "jwt-auth"),
        ("narthex.explain", "narthex.explain"),
        ("chat", None),
        ("", None),
    ],
)
def test_a_browser_is_given_a_subprotocol(guard: Guarding, offer: str, chosen: str | None) -> None:
    """Ours where the upstream selects none and the client offered ours, because a browser needs one then."""
    with guard.peer() as peer:
        peer.send(upgrade(extra=f"Sec-WebSocket-Protocol: {offer}\r\n" if offer else ""))
        assert peer.head().headers.get("sec-websocket-protocol") == chosen


def test_the_upstreams_choice_passes() -> None:
    """Its subprotocol, its extensions and its headers; the client's own key is answered."""
    with RawUpstream() as upstream, Guarding(upstream.port) as guard, guard.peer() as peer:
        offers = "Sec-WebSocket-Protocol: jwt-auth, chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
        peer.send(upgrade(extra=offers))
        with upstream.accept() as accepted:
            request = accepted.request().decode().lower()
            assert "sec-websocket-protocol: chat\r\n" in request
            assert "sec-websocket-extensions: permessage-deflate\r\n" in request
            chosen = (
                b"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"
                b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nKeep-Alive: 5\r\n\r\n"
            )
            accepted.send(
                b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + SWITCHING[:-2] + chosen + b"\x81\x01a"
            )
            head = peer.head()
            assert head.headers["sec-websocket-protocol"] == "chat"
            assert head.headers["sec-websocket-extensions"] == "permessage-deflate"
            assert head.raw.lower().count(b"set-cookie") == 2
            assert b"link" not in head.raw.lower()
            assert b"keep-alive" not in head.raw.lower()
            assert peer.frame() == (0x81, b"a")


def test_the_upstreams_own_refusal_passes(guard: Guarding) -> None:
    """Status, headers and body, and the connection ends."""
    with guard.peer() as peer:
        peer.send(upgrade("/deny"))
        head, body = peer.answer()
        assert (head.status, head.headers["retry-after"], head.headers["x-extra"]) == (503, "3", "yes")
        assert json.loads(body)["trace_id"] == "trace-1"
        assert peer.rest() == b""
    assert guard.admitted().next()[0] == "closed"
    assert guard.results.get(timeout=5) == "denied"


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 418 Teapot\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n", b"no"),
        (b"HTTP/1.0 418 Teapot\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 418 Teapot\r\nContent-Length: 0\r\n\r\n", b""),
    ],
)
def test_a_refusal_of_any_framing_passes(answer: bytes, body: bytes) -> None:
    """Chunked, until the end of the connection, empty: the client gets it with its length."""
    with RawUpstream() as upstream, Guarding(upstream.port) as guard, guard.peer() as peer:
        peer.send(upgrade())
        with upstream.accept() as accepted:
            accepted.request()
            accepted.send(answer)
        head, found = peer.answer()
        assert (head.status, found) == (418, body)


@pytest.mark.parametrize(
    ("status", "close"), [(401, (3507, "upstream_denied")), (503, (4005, "upstream_failed"))]
)
def test_a_client_that_asks_for_explanations_gets_a_close_frame(status: int, close: tuple[int, str]) -> None:
    """Browsers hide an upstream's refusal as they hide the guard's own."""
    with RawUpstream() as upstream, Guarding(upstream.port) as guard, guard.peer() as peer:
        peer.send(upgrade(extra="Sec-WebSocket-Protocol: narthex.explain\r\n"))
        with upstream.accept() as accepted:
            accepted.request()
            accepted.send(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\n\r\n".encode())
        assert peer.head().status == 101
        code, reason = peer.close_frame()
        assert (code, reason.split(":")[0]) == close
        assert str(status) in reason


def refusal(guard: Guarding) -> tuple[int, str, str]:
    """Status, code and detail of the answer to a handshake."""
    with guard.peer() as peer:
        peer.send(upgrade())
        head, body = peer.answer()
    problem = json.loads(body)
    assert guard.admitted().next()[0] == "closed", "the slot of the connection was not given back"
    assert guard.results.get(timeout=5) == problem["code"]
    assert head.headers["retry-after"] == "1"
    return head.status, problem["code"], problem["detail"]


def test_an_upstream_that_refuses_is_a_502() -> None:
    """No listener at the port."""
    with Guarding(closed_port()) as guard:
        assert refusal(guard)[:2] == (502, "upstream_refused")


def test_an_upstream_that_is_slow_is_a_504() -> None:
    """It takes the connection and does not answer; the time is the upstream's own."""
    with RawUpstream() as upstream, Guarding(upstream.port, timeout_s=0.2) as guard:
        status, code, detail = refusal(guard)
        assert (status, code) == (504, "upstream_timeout")
        assert "did not answer the handshake within 0.2 s" in detail


def test_an_upstream_is_given_no_more_than_the_handshake_has_left() -> None:
    """The 504 comes before the edge's own deadline, which could not name the upstream."""
    with RawUpstream() as upstream, Guarding(upstream.port, EdgeLimits(handshake_s=1.5)) as guard:
        assert refusal(guard)[:2] == (504, "upstream_timeout")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", (503, "upstream_gone")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", (503, "upstream_gone")),
        (b"SSH-2.0-OpenSSH\r\n", (502, "upstream_invalid")),
        (SWITCHING.replace(b"s3pP", b"0000"), (502, "upstream_invalid")),
        (SWITCHING.replace(b"Upgrade: websocket", b"Upgrade: h2c"), (502, "upstream_invalid")),
        (SWITCHING[:-2] + b"Sec-WebSocket-Protocol: own\r\n\r\n", (502, "upstream_invalid")),
        (SWITCHING[:-2] + b"Sec-WebSocket-Extensions: x\r\n\r\n", (502, "upstream_invalid")),
        (
            b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
            (503, "upstream_gone"),
        ),
        (b"HTTP/1.1 403 No\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 1_500_000, (502, "upstream_invalid")),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + FRAME, (502, "upstream_invalid")),
        (SWITCHING.replace(b"Upgrade: websocket\r\n", b""), (502, "upstream_invalid")),
        (SWITCHING.replace(b"Connection: Upgrade\r\n", b""), (502, "upstream_invalid")),
        (SWITCHING[:-2] + ACCEPTED + b"\r\n", (502, "upstream_invalid")),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n" * 50_000, (502, "upstream_invalid")),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_500_000, (502, "upstream_invalid")),
        (SWITCHING[:-2] + b"X: a\r\n Set-Cookie: b\r\n\r\n", (502, "upstream_invalid")),
        (SWITCHING[:-2] + b"X: a\rSet-Cookie: b\r\n\r\n", (502, "upstream_invalid")),
    ],
    ids=[
        "nothing",
        "cut-body",
        "no-http",
        "accept",
        "upgrade",
        "subprotocol",
        "extension",
        "cut-chunks",
        "huge",
        "bare-101",
        "no-upgrade",
        "no-connection",
        "two-accepts",
        "endless-hints",
        "endless-header",
        "folded-header",
        "bare-cr",
    ],
)
def test_an_answer_that_cannot_be_passed_on(answer: bytes, expected: tuple[int, str]) -> None:
    """It went away within its answer, or the answer is none to this handshake."""
    with RawUpstream() as upstream, Guarding(upstream.port) as guard, guard.peer() as peer:
        peer.send(upgrade())
        with upstream.accept() as accepted:
            accepted.request()
            try:
                accepted.send(answer)
                accepted.half_close()
            except OSError:
                pass  # the guard had enough of it
            head, body = peer.answer()
        assert (head.status, json.loads(body)["code"]) == expected
        assert guard.admitted().next()[0] == "closed"


def test_a_client_that_leaves_takes_the_upstreams_handshake_along() -> None:
    """Its RST drops the connection to the upstream and gives the slot back."""
    with RawUpstream() as upstream, Guarding(upstream.port) as guard:
        with guard.peer() as peer:
            peer.send(upgrade())
            accepted = upstream.accept()
            accepted.request()
            reset(peer)
        with accepted:
            assert guard.admitted().next() == ("closed", 1006, "")
            with pytest.raises((EOFError, ConnectionResetError)):
                accepted.exactly(1)


def test_a_refused_handshake_never_reaches_the_upstream() -> None:
    """Admission comes first: no connection is opened."""
    with RawUpstream() as upstream, Guarding(upstream.port) as guard:
        with guard.peer() as peer:
            peer.send(upgrade("/refused"))
            assert peer.answer()[0].status == 401
        with guard.peer() as peer:
            peer.send(upgrade("/ws"))
            with upstream.accept() as accepted:
                assert b"GET /ws " in accepted.request()


def test_an_answer_that_goes_on_for_ever_ends_at_the_upstreams_time() -> None:
    """A 200 whose body trickles is none to a handshake: 504 in time, and its connection is dropped."""
    with RawUpstream() as upstream, Guarding(upstream.port, timeout_s=0.5) as guard, guard.peer() as peer:
        peer.send(upgrade())
        with upstream.accept() as accepted:
            accepted.request()
            accepted.send(b"HTTP/1.1 200 OK\r\n\r\n")
            ended = False
            while not ended:
                try:
                    accepted.send(b"x")
                    time.sleep(0.02)  # it is the pace of the attack
                except OSError:
                    ended = True
            assert peer.answer()[0].status == 504
        assert guard.admitted().next()[0] == "closed"


def test_two_answers_are_one() -> None:
    """Bytes behind a refusal are no handshake: the client gets the first answer, and nothing behind it."""
    with RawUpstream() as upstream, Guarding(upstream.port) as guard, guard.peer() as peer:
        peer.send(upgrade())
        with upstream.accept() as accepted:
            accepted.request()
            accepted.send(b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno" + SWITCHING + FRAME)
            head, body = peer.answer()
            assert (head.status, body) == (403, b"no")
            assert peer.rest() == b""
