"""The classification of heads, outcome by outcome."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narthex.adapters.edge.head import Complete, HeadReader, request_head
from narthex.adapters.edge.rules import HeadRules, MountedUpgrade, PlainRequest, Upgrade, classify_head
from narthex.domain.refusals import Refusal
from tests.adapters.edge.harness import KEY, upgrade

RULES = HeadRules(allowed_host=lambda host: host in ("localhost", "gate.example", "[::1]"))


def judged(data: bytes, peer: str = "") -> PlainRequest | Upgrade | MountedUpgrade | Refusal:
    outcome = HeadReader(16_384, 100).feed(data)
    assert isinstance(outcome, Complete), outcome
    head = request_head(outcome.fields, peer=(peer, 0), secure=False, received_at=0.0)
    return classify_head(outcome.fields, head, RULES)


def code(data: bytes) -> str:
    found = judged(data)
    return found.code if isinstance(found, Refusal) else type(found).__name__


def get(path: str, *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/{version}", *lines, "", "")).encode("latin-1")


HOST = "Host: localhost"
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket")
VERSION = "Sec-WebSocket-Version: 13"
KEY_LINE = f"Sec-WebSocket-Key: {KEY}"


@pytest.mark.parametrize(
    ("peer", "lines", "expected"),
    [
        ("127.0.0.1", (), PlainRequest),
        ("192.0.2.1", (), Refusal),
        ("127.0.0.1", ("X-Forwarded-For: 192.0.2.1",), Refusal),
    ],
)
def test_a_probe_of_this_machine_is_served_by_any_loopback_name(
    peer: str, lines: tuple[str, ...], expected: type[object]
) -> None:
    """The name is not listed: without a proxy the socket's other end decides."""
    assert isinstance(judged(get("/", "Host: 127.0.0.1:8000", *lines), peer), expected)


def test_a_correct_upgrade_is_told_to_the_gate() -> None:
    """Key, offered subprotocols in order, and extensions are passed on."""
    found = judged(
        upgrade(
            extra="Sec-WebSocket-Protocol: jwt-auth, jwt.a.b.c\r\nSec-WebSocket-Protocol: narthex.explain\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        )
    )
    assert found == Upgrade(
        KEY,
        ("jwt-auth", "jwt.a.b.c", "narthex.explain"),
        "permessage-deflate; client_max_window_bits",
    )


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (
            get("/ws", HOST, "connection: keep-alive, UPGRADE", "UPGRADE: WebSocket", VERSION, KEY_LINE),
            "Upgrade",
        ),
        (get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, "Content-Length: 0"), "Upgrade"),
        (get("http://localhost/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE), "Upgrade"),
        (get("/ws", "Host: [::1]:8000", *WEBSOCKET, VERSION, KEY_LINE), "Upgrade"),
        # Upgrades that are refused.
        (get("/ws", HOST, *WEBSOCKET, VERSION), "bad_request"),
        (get("/ws", HOST, *WEBSOCKET, VERSION, "Sec-WebSocket-Key: short"), "bad_request"),
        (get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, KEY_LINE), "bad_request"),
        (get("/ws", HOST, *WEBSOCKET, KEY_LINE), "upgrade_required"),
        (get("/ws", HOST, *WEBSOCKET, "Sec-WebSocket-Version: 8", KEY_LINE), "upgrade_required"),
        (get("/ws", HOST, *WEBSOCKET, VERSION, VERSION, KEY_LINE), "bad_request"),
        (get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, "Content-Length: 3"), "bad_request"),
        (get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, "Transfer-Encoding: chunked"), "bad_request"),
        (get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, "Sec-WebSocket-Protocol: \xfc"), "bad_request"),
        (get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, "Origin: a", "Origin: b"), "bad_request"),
        (
            get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, "Authorization: a", "Authorization: a"),
            "bad_request",
        ),
        (get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, method="POST"), "upgrade_required"),
        (get("/ws", HOST, *WEBSOCKET, VERSION, KEY_LINE, version="1.0"), "upgrade_required"),
        (get("/ws", HOST, "Upgrade: websocket", VERSION, KEY_LINE), "upgrade_required"),
        (get("/ws", HOST), "upgrade_required"),
        (get("/ws", HOST, version="1.0"), "upgrade_required"),
        (get("/nowhere", HOST, *WEBSOCKET, VERSION, KEY_LINE), "no_route"),
        (get("/ws/", HOST, *WEBSOCKET, VERSION, KEY_LINE), "no_route"),
        (
            get("/ws", HOST, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: A"),
            "bad_request",
        ),
        (
            get("/", HOST, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: A"),
            "bad_request",
        ),
        # Whose host it is.
        (get("/", "Host: evil.example"), "bad_request"),
        (get("/ws", "Host: evil.example", *WEBSOCKET, VERSION, KEY_LINE), "bad_request"),
        (get("/", "Host: localhost/../livez"), "bad_request"),
        (get("/", "Host: localhost?x"), "bad_request"),
        (get("/", "Host: user@localhost"), "bad_request"),
        (get("/", "Host: localhost:port"), "bad_request"),
        (get("/", "Host: "), "bad_request"),
        (get("/"), "bad_request"),
        (get("/", HOST, HOST), "bad_request"),
        (get("/", version="1.0"), "bad_request"),
        (get("http://evil.example/", HOST), "bad_request"),
        (get("http://localhost/", "Host: gate.example"), "bad_request"),
        (get("/", "Host: GATE.example:8443"), "PlainRequest"),
        (get("/livez", "Host: 10.1.2.3:8080"), "PlainRequest"),
        (get("/readyz", version="1.0"), "PlainRequest"),
        (get("/livez", "Host: a/b"), "bad_request"),
        (get("/livez"), "bad_request"),
        (get("/livezz", "Host: 10.1.2.3"), "bad_request"),
        # Targets.
        (get("*", HOST, method="OPTIONS"), "bad_request"),
        (get("localhost:80", HOST, method="CONNECT"), "bad_request"),
        (get("/a%00b", HOST), "bad_request"),
        (get("/a%0d%0ab", HOST), "bad_request"),
        (get("/a#b", HOST), "bad_request"),
        (get("/a%C3%A9", HOST), "PlainRequest"),
        (get("/", HOST, "Upgrade: foo"), "PlainRequest"),
        (get("/", HOST, version="2.0"), "bad_request"),
        (get("/%77s", HOST), "upgrade_required"),
    ],
)
def test_each_outcome(data: bytes, expected: str) -> None:
    """One row of the classification."""
    assert code(data) == expected


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40))
@settings(max_examples=300)
def test_a_refusal_never_repeats_the_host(host: str) -> None:
    """A reflected header invites injection."""
    found = judged(get("/", f"Host: zq{host}zq"))
    if isinstance(found, Refusal):
        assert f"zq{host}zq" not in found.detail + found.log_detail
