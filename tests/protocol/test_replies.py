"""Replies and pushes in the shape that Centrifuge SDKs read."""

from __future__ import annotations

import json

import msgspec
import pytest
from msgspec.structs import fields

from narthex.protocol import codes
from narthex.protocol.replies import (
    ClientInfo,
    ConnectResult,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    PublicationView,
    RefreshResult,
    SubscribeResult,
    encode_disconnect,
    encode_error,
    encode_json,
    encode_publication,
    encode_push,
    encode_reply,
    push_prefix,
)


def test_a_connect_reply_leaves_out_what_is_empty() -> None:
    """As Centrifugo does; SDKs read a missing member as its zero value."""
    raw = encode_reply(7, "connect", ConnectResult(client="c", version="0 narthex", ping=25, pong=True))
    assert json.loads(raw) == {
        "id": 7,
        "connect": {"client": "c", "version": "0 narthex", "ping": 25, "pong": True},
    }


RESULTS = (
    *(ClientInfo, ConnectResult, HistoryResult, PresenceResult, PresenceStatsResult),
    *(PublicationView, RefreshResult, SubscribeResult),
)
SMALLEST: dict[object, object] = {int: 1, bool: True, str: "x"}
"""By type: the value next to the one for a missing member."""


@pytest.mark.parametrize("result", RESULTS)
def test_a_member_that_is_not_empty_is_sent(result: type[msgspec.Struct]) -> None:
    """A client reads a missing member as its zero value, so nothing else may be left out."""
    required = {field.name: None for field in fields(result) if field.required}
    for field in fields(result):
        if field.type in SMALLEST:
            sent = json.loads(encode_json(result(**required | {field.name: SMALLEST[field.type]})))
            assert sent[field.encode_name] == SMALLEST[field.type]


def test_publication_data_is_passed_through_as_it_was_published() -> None:
    """Spacing and member order survive: nothing between publisher and client parses it."""
    data = b'{"b": 1,  "a":"\\u00e9"}'
    push = encode_publication(push_prefix('thread:"q"'), data, 12, {"k": "v"})
    assert data in push
    assert json.loads(push) == {
        "push": {
            "channel": 'thread:"q"',
            "pub": {"data": {"b": 1, "a": "é"}, "offset": 12, "tags": {"k": "v"}},
        }
    }
    assert "offset" not in json.loads(encode_publication(push_prefix("c"), data, 0))["push"]["pub"]


def test_recovered_publications_stand_in_the_reply() -> None:
    """`data` is raw JSON inside the result."""
    view = PublicationView(data=msgspec.Raw(b'{"x":1}'), offset=3)
    raw = encode_reply(
        1, "subscribe", SubscribeResult(recovered=True, publications=[view], offset=3, epoch="e")
    )
    assert json.loads(raw)["subscribe"]["publications"] == [{"data": {"x": 1}, "offset": 3}]


def test_errors_and_pushes() -> None:
    """`temporary` shows only when it is true; a disconnect push says whether to reconnect."""
    assert json.loads(encode_error(1, codes.BAD_REQUEST)) == {
        "id": 1,
        "error": {"code": 107, "message": "bad request"},
    }
    assert json.loads(encode_error(1, codes.INTERNAL))["error"]["temporary"] is True
    assert json.loads(encode_push("c", "unsubscribe", {"code": 2000}))["push"] == {
        "channel": "c",
        "unsubscribe": {"code": 2000},
    }
    assert json.loads(encode_disconnect(codes.SLOW))["push"]["disconnect"]["reconnect"] is True
    assert json.loads(encode_disconnect(codes.STALE))["push"]["disconnect"]["reconnect"] is False


def test_close_codes_say_what_their_range_says() -> None:
    """3000-3499 and 4000-4499 mean "reconnect", the rest is final."""
    for code, back in [
        (3000, True),
        (3499, True),
        (3500, False),
        (3999, False),
        (4000, True),
        (4499, True),
        (4500, False),
        (1000, False),
    ]:
        assert codes.Disconnect(code, "").reconnect is back
