"""What a trace shows of a message: kinds, masks, and the messages in bytes that were framed for a transport."""

from __future__ import annotations

import json

import msgspec
import pytest

from narthex.app.fleet.taps import MAX_SHOWN, described, masked, payloads_of
from narthex.protocol.commands import ConnectRequest, RpcRequest
from narthex.protocol.framing import Framing, Prepared

RPC = RpcRequest(
    method="run.start", data=msgspec.Raw(b'{"text":"what I wrote","thread_id":"t1","n":[1,"x"]}')
)


def test_texts_are_masked_and_structure_names_and_numbers_are_not() -> None:
    """An operator sees what happens and not what a person wrote."""
    shown = json.loads(masked({"id": 3, "rpc": RPC}, payloads=False))
    assert shown["id"] == 3
    assert shown["rpc"]["method"] == "run.start"
    assert shown["rpc"]["data"] == {"text": "(12 characters)", "thread_id": "t1", "n": [1, "(1 characters)"]}
    assert json.loads(masked({"rpc": RPC}, payloads=True))["rpc"]["data"]["text"] == "what I wrote"


def test_a_name_that_is_too_long_for_one_is_masked() -> None:
    """A client may put a text where a name belongs."""
    assert "characters" in masked({"method": "m" * 41}, payloads=False)


@pytest.mark.parametrize("payloads", [False, True])
def test_credentials_are_never_shown(payloads: bool) -> None:
    """Wherever they are, also with payloads."""
    connect = ConnectRequest(
        token="secret-1", data=msgspec.Raw(b'{"Authorization":"secret-2","a":{"ticket":"secret-3"}}')
    )
    text = masked({"connect": connect, "session": "secret-4"}, payloads=payloads)
    assert "secret" not in text
    assert text.count("(a credential)") == 4


def test_a_large_message_is_cut() -> None:
    """An entry is at most 2,000 characters."""
    assert len(masked({"data": ["x" * 100] * 1_000}, payloads=True)) == MAX_SHOWN


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"{}", "ping"),
        (b'{"id":1,"rpc":{"data":{}}}', "reply"),
        (b'{"id":1,"error":{"code":103,"message":"permission denied"}}', "error"),
        (b'{"push":{"channel":"thread:1","pub":{"data":{"delta":"hi"},"offset":4}}}', "push pub"),
        (b'{"close":{"code":3503,"reason":"x"}}', "close"),
        (b"\x0a\x04binary", "protobuf"),
    ],
)
def test_kinds_of_outbound_messages(payload: bytes, kind: str) -> None:
    """As an operator reads them."""
    found, body = described(payload, payloads=False)
    assert found == kind
    assert "hi" not in body


@pytest.mark.parametrize("framing", list(Framing))
def test_messages_are_found_in_framed_bytes(framing: Framing) -> None:
    """Of every transport, compressed ones and several in one write among them."""
    large = b'{"push":{"channel":"c","pub":{"data":"' + b"x" * 70_000 + b'"}}}'
    assert list(payloads_of(framing, Prepared(large).framed(framing))) == [large]
    if framing not in (Framing.HTTP_STREAM, Framing.SSE, Framing.PROTOBUF_HTTP_STREAM):
        medium = b'{"a":"' + b"y" * 300 + b'"}'
        both = Prepared(medium).framed(framing) + Prepared(b"{}").framed(framing)
        assert list(payloads_of(framing, both)) == [medium, b"{}"]
