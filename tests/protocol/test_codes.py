"""The codes are those of the Centrifuge protocol: the number tells SDKs whether to reconnect."""

from __future__ import annotations

import pytest

from narthex.protocol import codes
from narthex.protocol.codes import Disconnect, ReplyError

REPLY_ERRORS = {
    "INTERNAL": (100, True),
    "UNAUTHORIZED": (101, False),
    "UNKNOWN_CHANNEL": (102, False),
    "PERMISSION_DENIED": (103, False),
    "METHOD_NOT_FOUND": (104, False),
    "ALREADY_SUBSCRIBED": (105, False),
    "LIMIT_EXCEEDED": (106, False),
    "BAD_REQUEST": (107, False),
    "NOT_AVAILABLE": (108, False),
    "TOKEN_EXPIRED": (109, False),
    "EXPIRED": (110, False),
    "TOO_MANY_REQUESTS": (111, True),
    "UNRECOVERABLE_POSITION": (112, False),
}
"""By name: the number, and whether the client may try again."""
DISCONNECTS = {
    "NORMAL": 1000,
    "SHUTDOWN": 3001,
    "TOKEN_LIFE_ENDED": 3005,
    "SLOW": 3008,
    "INSUFFICIENT_STATE": 3010,
    "FORCE_RECONNECT": 3011,
    "NO_PONG": 3012,
    "TOO_MANY_COMMANDS": 3013,
    "INVALID_TOKEN": 3500,
    "NO_FRESH_TOKEN": 3500,
    "REVOKED": 3500,
    "BAD_FRAME": 3501,
    "UNKNOWN_DELTA": 3501,
    "STALE": 3502,
    "NOT_CONNECTED": 3502,
    "FORCED": 3503,
    "NOT_TEXT": 3506,
    "NOT_BINARY": 3506,
}


def test_every_reply_error_has_its_number() -> None:
    """All of the module, and no other."""
    found = {name: value for name, value in vars(codes).items() if isinstance(value, ReplyError)}
    assert {name: (error.code, error.temporary) for name, error in found.items()} == REPLY_ERRORS


REASONS = {
    "NOT_TEXT": "inappropriate_protocol: send JSON in text messages, or offer the subprotocol centrifuge-protobuf",
    "NOT_BINARY": "inappropriate_protocol: send protobuf in binary messages",
    "UNKNOWN_DELTA": "bad_request: the only format of deltas is fossil; see docs/protocol.md",
    "NOT_CONNECTED": "silence: the credential is valid, but no connect came; send connect",
    "STALE": "silence: no credential came in time; send connect with a token",
    "NO_FRESH_TOKEN": "token_expired: no fresh token came in time",
    "NO_PONG": "no_pong: the client did not answer a ping in time; reconnect to recover what was missed",
}
"""Texts by which the author of a client finds the mistake."""


@pytest.mark.parametrize("name", REASONS)
def test_a_reason_says_what_the_client_must_do(name: str) -> None:
    """As it is, and short enough for a close frame (123 bytes, RFC 6455 section 5.5)."""
    reason = getattr(codes, name).reason
    assert reason == REASONS[name]
    assert len(reason.encode()) <= 123


def test_every_disconnect_has_its_number() -> None:
    """All of the module, and no other."""
    found = {name: value.code for name, value in vars(codes).items() if isinstance(value, Disconnect)}
    assert found == DISCONNECTS


@pytest.mark.parametrize(
    ("code", "reconnect"),
    [
        *((2999, False), (3000, True), (3499, True), (3500, False), (3999, False)),
        *((4000, True), (4499, True), (4500, False), (1000, False)),
    ],
)
def test_the_number_decides_whether_a_client_comes_back(code: int, reconnect: bool) -> None:
    """3000-3499 and 4000-4499 mean "reconnect", everything else is final."""
    assert Disconnect(code, "").reconnect is reconnect
