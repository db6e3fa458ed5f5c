"""HTTP through the edge: kept-alive connections, their limits, and the upgrade that comes later."""

from __future__ import annotations

import json
import time

import pytest

from narthex.adapters.edge.limits import KIB, EdgeLimits
from tests.adapters.edge.harness import Running, masked, upgrade
from tests.timing import within

HOST = b"Host: localhost\r\n"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def post(path: str, body: bytes) -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_requests_on_a_kept_alive_connection(server: Running) -> None:
    """GET, POST, chunked, pipelined and byte by byte: each answered in order on one connection."""
    with server.peer() as peer:
        peer.send(get("/a"))
        assert peer.answer()[1] == b"/a|"
        peer.send(post("/b", b"body"))
        assert peer.answer()[1] == b"/b|body"
        chunked = b"POST /c HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        peer.send(chunked + b"3\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n")
        assert peer.answer()[1] == b"/c|abcde"
        peer.send(get("/d") + post("/e", b"12") + get("/f"))
        assert [peer.answer()[1] for _ in range(3)] == [b"/d|", b"/e|12", b"/f|"]
        for byte in post("/g", b"xyz"):
            peer.send(bytes([byte]))
        assert peer.answer()[1] == b"/g|xyz"


def test_the_answer_does_not_name_the_server(server: Running) -> None:
    """`Date` yes; the name and version of the software no."""
    with server.peer() as peer:
        peer.send(get("/"))
        headers = peer.answer()[0].headers
        assert "date" in headers
        assert "server" not in headers


def test_absolute_form_is_served_by_its_path(server: Running) -> None:
    """RFC 9112 section 3.2.2, when its authority is the Host."""
    with server.peer() as peer:
        peer.send(get("http://localhost/x?y"))
        assert peer.answer()[1] == b"/x|"


@pytest.mark.parametrize("before", [b"", get("/a"), post("/a", b"1" * 100_000)])
def test_an_upgrade_on_a_kept_alive_connection(server: Running, before: bytes) -> None:
    """Proxies re-use upstream connections: first a request, answered or still in the pipe, then the upgrade."""
    for wait in (True, False):
        with server.peer() as peer:
            later = upgrade() + masked(1, b"early")
            if not before:
                peer.send(later)
            elif wait:
                peer.send(before)
                assert peer.answer()[0].status == 200
                peer.send(later[:40])
                peer.send(later[40:])
            else:
                peer.send(before + later)
                assert peer.answer()[0].status == 200
            assert peer.head().status == 101
            receiver = server.gate.receivers.get(timeout=5)
            assert receiver.next() == ("opened",)
            assert receiver.next() == ("message", b"early", False)
            head = server.gate.heads.get(timeout=5)
            assert head.path == "/ws"
            assert head.peer[0] == "127.0.0.1"
            assert head.received_at > 0


LATER = {
    "garbage": (b"nonsense\r\n\r\n", "bad_request"),
    "large": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 20_000 + b"\r\n\r\n", "head_too_large"),
    "many": (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 100 + b"\r\n", "head_too_large"),
    "endless": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 40_000, "head_too_large"),
    "foreign host": (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", "bad_request"),
    "h2c": (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "bad_request"),
    "no route": (upgrade("/elsewhere"), "no_route"),
    "plain": (get("/ws"), "upgrade_required"),
    "denied": (upgrade("/deny"), "auth_unavailable"),
}


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("name", sorted(LATER))
def test_later_requests_have_the_same_limits(server: Running, name: str, split: bool) -> None:
    """A refusal waits for the answers due before it, and then sends FIN."""
    request, code = LATER[name]
    with server.peer() as peer:
        if split:
            peer.send(get("/a"))
            assert peer.answer()[1] == b"/a|"
            peer.send(request)
        else:
            peer.send(post("/a", b"1") + request)
            assert peer.answer()[1] == b"/a|1"
        head, body = peer.answer()
        assert json.loads(body)["code"] == code
        assert head.headers["connection"].endswith("close")
        assert peer.rest() == b""


def test_a_large_body_does_not_count_as_head(server: Running) -> None:
    """The limit applies to the head; behind 300 KB of body the next head is measured alone."""
    with server.peer() as peer:
        following = get("/next")
        peer.send(post("/big", b"b" * 300_000) + following[:10])
        assert peer.answer()[0].status == 200
        peer.send(following[10:] + get("/" + "p" * 16_000))
        assert peer.answer()[1] == b"/next|"
        assert peer.answer()[0].status == 200


def test_pipelining_is_bounded(server: Running) -> None:
    """Behind an unanswered request only this many wait; the rest is refused once those are done."""
    with server.peer() as peer:
        peer.send(get("/a") * 40)
        statuses: list[int] = []
        while not statuses or statuses[-1] == 200:
            statuses.append(peer.answer()[0].status)
        assert statuses == [200] * 17 + [400]
        assert peer.rest() == b""


def test_bodies_and_later_heads_have_deadlines() -> None:
    """A body that stops arriving, short or long: 408; a later head likewise; idle: FIN only."""
    with Running(EdgeLimits(body_s=0.5, handshake_s=0.5, keep_alive_s=1)) as server:
        for length in (5, 17 * KIB):
            with server.peer() as peer:
                peer.send(post("/a", b"1" * length)[:-2])
                assert peer.answer()[0].status == 408
                assert peer.rest() == b""
        with server.peer() as peer:
            peer.send(get("/a"))
            peer.answer()
            peer.send(b"GET /b HTTP/1.1\r\n")
            assert peer.answer()[0].status == 408
            assert peer.rest() == b""
        with server.peer() as peer:
            peer.send(get("/a"))
            peer.answer()
            assert peer.rest() == b""
        deadline = time.monotonic() + 5
        while server.edge.open and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.edge.open == 0


@pytest.mark.parametrize(("length", "tasks"), [(2, 0), (16 * KIB, 0), (16 * KIB + 1, 1)])
def test_half_of_a_short_body_starts_no_application(server: Running, length: int, tasks: int) -> None:
    """A flood of half bodies costs a parser each; a long body is streamed to the application from its head on."""
    request = post("/a", b"x" * length)
    with server.peer() as slow, server.peer() as other:
        slow.send(request[:-1])
        for _ in range(3):  # the loop has read the half before it reads the last of these
            other.send(get("/b"))
            assert other.answer()[1] == b"/b|"
        running = server.call(lambda: len(server.server.server_state.tasks))
        assert running == tasks
        slow.send(request[-1:])
        assert slow.answer()[1] == b"/a|" + b"x" * length


@pytest.mark.parametrize("before", [b"", get("/a"), get("/slow-answer")], ids=["first", "kept", "pipelined"])
@pytest.mark.parametrize(
    "request_",
    [
        b"GET http://localhost HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET http://localhost:99999/ HTTP/1.1\r\nHost: localhost:99999\r\n\r\n",
        b"POST /b HTTP/1.1\r\n" + HOST + b"Content-Length: " + b"0" * 5000 + b"2\r\n\r\nab",
    ],
    ids=["no path", "port", "zeros"],
)
def test_an_error_in_a_head_touches_no_other_request(server: Running, before: bytes, request_: bytes) -> None:
    """It is answered, in its place; the answer under way is complete, and no exception reaches the loop."""
    faults: list[object] = []
    server.call(lambda: server.loop.set_exception_handler(lambda _, context: faults.append(context)))
    with server.peer() as peer:
        peer.send(before + request_)
        if before:
            assert peer.answer()[1] in (b"/a|", b"/slow-answer|")
        assert peer.answer()[0].status in (200, 400)
    assert server.call(lambda: list(faults)) == []


@pytest.mark.parametrize(
    "half", [post("/stream", b"12")[:-1], post("/stream", b"12")[:-10]], ids=["body", "head"]
)
def test_the_keep_alive_time_of_an_answer_ends_no_request_that_has_begun(half: bytes) -> None:
    """Half of a request came behind the one before: its answer may take longer than idle connections are kept."""
    with Running(EdgeLimits(keep_alive_s=1)) as server, server.peer() as peer:
        peer.send(get("/slow-answer") + half)
        assert peer.answer()[1] == b"/slow-answer|"
        peer.send(post("/stream", b"12")[len(half) :])
        assert peer.head().status == 200
        peer.socket.settimeout(within(10))
        assert peer.exactly(len(b"5\r\nfirst\r\n4\r\nlast\r\n0\r\n\r\n")).endswith(b"4\r\nlast\r\n0\r\n\r\n")


def test_a_stopping_server_refuses_a_request_whose_body_is_half_there() -> None:
    """503 and not a reset: the client may repeat it elsewhere."""
    with Running() as server, server.peer() as peer, server.peer() as other:
        peer.send(post("/a", b"12")[:-1])
        for _ in range(3):
            other.send(get("/b"))
            assert other.answer()[1] == b"/b|"
        server.loop.call_soon_threadsafe(server.server.stop)
        head, body = peer.answer()
        assert (head.status, json.loads(body)["code"]) == (503, "draining")


def test_a_client_that_expects_100_gets_it_before_its_short_body(server: Running) -> None:
    """It waits for the application, which therefore cannot wait for the body."""
    with server.peer() as peer:
        peer.send(b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\n")
        assert peer.head().status == 100
        peer.send(b"ab")
        assert peer.answer()[1] == b"/a|ab"


def test_a_body_that_goes_wrong_is_answered(server: Running) -> None:
    """An invalid chunk size: 400 and FIN."""
    with server.peer() as peer:
        peer.send(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        assert peer.answer()[0].status == 400
        assert peer.rest() == b""


def test_a_slow_answer_outlives_the_keep_alive_time() -> None:
    """The idle timer of the request before must not end the next one (uvicorn arms it after each answer)."""
    with Running(EdgeLimits(keep_alive_s=1)) as server, server.peer() as peer:
        peer.send(get("/a"))
        peer.answer()
        peer.send(get("/stuck"))
        peer.socket.settimeout(2.5)
        with pytest.raises(TimeoutError):
            peer.rest()
