"""URLs: parsed, and never printed with possible secrets."""

from __future__ import annotations

import pytest

from narthex.doctor.target import parse_target
from narthex.errors import ClientError


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "path"),
    [
        ("wss://chat.example/ws", "chat.example", 443, True, "/ws"),
        ("http://chat.example", "chat.example", 80, False, "/"),
        ("127.0.0.1:8000", "127.0.0.1", 8000, False, "/"),
        ("ws://[::1]:9/x", "::1", 9, False, "/x"),
    ],
)
def test_urls_are_taken_apart(url: str, host: str, port: int, tls: bool, path: str) -> None:
    """All four schemes, and a bare host and port."""
    target = parse_target(url)
    assert (target.host, target.port, target.tls, target.path) == (host, port, tls, path)


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://x/", "ws://", "ws://h:99999/", "ws://u:secretword@h/", "ws://h/a b"),
        *("ws://[::1", "ws://[secretword]/ws", "ws://h:x/"),
    ],
)
def test_what_is_no_url_is_refused_without_its_secrets(url: str) -> None:
    """And a password in it is not repeated."""
    with pytest.raises(ClientError) as caught:
        parse_target(url)
    assert "secretword" not in str(caught.value)


def test_a_query_is_sent_and_not_shown() -> None:
    """It may contain a credential; one that looks like it is named."""
    target = parse_target("wss://h/ws?token=abcdefghijklmnopqrst")
    assert target.resource == "/ws?token=abcdefghijklmnopqrst"
    assert target.shown == "wss://h/ws?…"
    assert target.credential_in_query == "token"
    assert parse_target("ws://h/socket.io/?EIO=4").credential_in_query == ""


def test_a_name_that_begins_like_loopback_is_not_this_machine() -> None:
    """A token sent there unencrypted deserves a warning."""
    assert not parse_target("ws://127.evil.example/ws").loopback
    assert all(parse_target(f"ws://{host}/ws").loopback for host in ("localhost", "127.0.0.2", "[::1]"))


def test_the_other_routes_of_a_narthex_keep_a_prefix() -> None:
    """Behind a prefix they are below it."""
    assert parse_target("ws://h/ws").beside("health") == "/ws/health"
    assert parse_target("ws://h/chat/ws").beside("health") == "/chat/ws/health"
    assert parse_target("ws://h/connection/websocket").beside("beacon") == "/ws/beacon"
    assert parse_target("ws://h").beside("beacon") == "/ws/beacon"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/ws", ("/ws/beacon",)),
        ("/chat/ws", ("/chat/ws/beacon", "/ws/beacon", "/chat/beacon")),
        (
            "/a/rooms/7",
            (
                *("/a/rooms/7/ws/beacon", "/ws/beacon", "/a/rooms/7/beacon", "/a/rooms/ws/beacon"),
                *("/a/rooms/beacon", "/a/ws/beacon", "/a/beacon"),
            ),
        ),
        ("/1/2/3/4/5/6/7/8", 9),
    ],
)
def test_a_guards_routes_may_be_at_each_directory_of_the_endpoint(
    path: str, expected: tuple[str, ...] | int
) -> None:
    """Likely places come first, and a deep path costs a bounded number of requests."""
    found = parse_target(f"ws://h{path}").route_paths("beacon")
    assert (len(found) if isinstance(expected, int) else found) == expected
