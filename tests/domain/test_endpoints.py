"""Paths of wire endpoints, and URLs of servers."""

from __future__ import annotations

import pytest

from narthex.domain.endpoints import http_url, prefix_of


@pytest.mark.parametrize(
    "text",
    ["http://host", "https://host:8443/a?b#c", "http://[::1]:80", "HTTPS://Host", "http://me:pass@host"],
)
def test_a_url_with_a_host(text: str) -> None:
    """Its parts."""
    parts = http_url(text)
    assert parts is not None
    assert parts.scheme in ("http", "https")
    assert parts.hostname


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host:80",
        "ws://host",
        "http://",
        "http://:80",
        "http://host:0",
        "http://host:65536",
        "http://[::1",
    ],
)
def test_any_other_text_is_none(text: str) -> None:
    """Never an exception, for texts that `urlsplit` refuses too."""
    assert http_url(text) is None


def test_the_prefix_of_a_websocket() -> None:
    """The longest path of a WebSocket counts."""
    assert prefix_of("/chat/ws/") == "/chat"
    assert prefix_of("/connection/websocket") == ""
    assert prefix_of("/other") == "/other"
