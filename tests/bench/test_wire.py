"""The generator's bytes: what it sends is what a real WebSocket and JWT library accept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey
from websockets.server import ServerProtocol

from narthex.bench.load.dialects import MARKER, BenchTarget, ServerDialect
from narthex.bench.load.wire import frame, frames, mint, post, upgrade

SECRET = "a secret of at least thirty-two bytes"


def target(protocol: str) -> BenchTarget:
    """A closed port."""
    return BenchTarget(
        name="t",
        protocol=protocol,  # type: ignore[arg-type]  # a parameter of the tests
        host="127.0.0.1",
        port=1,
        pids=[],
        secret=SECRET,
        api_key="k",
    )


def test_a_real_server_accepts_the_upgrade_and_the_frames() -> None:
    """The sans-IO server of `websockets` reads both without a complaint."""
    server = ServerProtocol()
    server.receive_data(upgrade("/ws", "127.0.0.1:1", {"Authorization": "Bearer x"}))
    (request,) = server.events_received()
    response = server.accept(request)  # type: ignore[arg-type]  # the only event there can be
    assert response.status_code == 101
    server.send_response(response)
    texts = [b"", b"x" * 125, b"y" * 126, b"z" * 65_536]
    server.receive_data(b"".join(frame(text) for text in texts))
    assert [event.data for event in server.events_received()] == texts  # type: ignore[union-attr]  # frames


def test_tokens_verify_and_differ() -> None:
    """HS256 by another library; two tokens of one subject are two tokens."""
    one, two = mint(SECRET, "ada", plan="pro"), mint(SECRET, "ada")
    claims = jwt.decode(one, OctKey.import_key(SECRET), algorithms=["HS256"]).claims
    assert (claims["sub"], claims["plan"]) == ("ada", "pro")
    assert claims["exp"] > claims["iat"]
    assert one.split(".")[1] != two.split(".")[1]


@given(st.lists(st.binary(max_size=300), max_size=6), st.data())
def test_any_split_of_server_frames_gives_the_same_payloads(
    payloads: list[bytes], data: st.DataObject
) -> None:
    """Unmasked text frames, pings between them dropped, whole or in pieces."""
    stream = b""
    for payload in payloads:
        size = len(payload)
        head = bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2)
        stream += b"\x89\x00" + head + payload
    buffer = bytearray()
    found: list[bytes] = []
    at = 0
    while at < len(stream):
        step = data.draw(st.integers(1, len(stream) - at))
        buffer += stream[at : at + step]
        found += frames(buffer)
        at += step
    assert found == payloads
    assert not buffer


def test_every_publication_holds_the_marker_once_and_its_size() -> None:
    """Deliveries are counted by it, and targets get the same bytes."""
    for protocol in ("raw", "narthex", "centrifugo"):
        dialect = ServerDialect(target(protocol))
        data = dialect.publication(7, 128)
        assert data.count(MARKER) == 1
        assert len(data) == 128
        assert b"}" not in MARKER
        assert data in dialect.publish("bench", data)


def test_a_post_says_its_length() -> None:
    """Nothing is left over for the next request on the connection."""
    head, _, body = post("/x", "h", {"A": "b"}, b'{"a":1}').partition(b"\r\n\r\n")
    assert b"Content-Length: 7" in head
    assert body == b'{"a":1}'
