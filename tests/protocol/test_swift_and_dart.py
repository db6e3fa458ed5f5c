"""The messages that the SDKs of Swift and Dart send and read, whose toolchains are not here: golden bytes.

The bytes were made by Google's encoder from the published schema; Swift's generated code writes the same (fields in
order, none at its default). Dart's also writes a field that was set to its default, as its SDK does in places.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest

from narthex.protocol import codes
from narthex.protocol.codec import JSON, PROTOBUF
from narthex.protocol.replies import (
    ClientInfo,
    ConnectResult,
    HistoryResult,
    PresenceResult,
    PresenceStatsResult,
    PublicationView,
    RefreshResult,
    SubscribeResult,
)
from tests.protocol import centrifuge_schema as oracle
from tests.protocol.test_protobuf import shown

SENT: Final[list[tuple[str, dict[str, Any]]]] = [
    (
        "17080122130a05742e6f2e6b220573776966742a03312e32",
        {"id": 1, "connect": {"token": "t.o.k", "name": "swift", "version": "1.2"}},
    ),
    (
        "210801221d1a140a08757365723a6164611208180132026531380722057377696674",
        {
            "id": 1,
            "connect": {"name": "swift", "subs": {"user:ada": {"recover": True, "epoch": "e1", "offset": 7}}},
        },
    ),
    ("0f08022a0b0a097468726561643a7431", {"id": 2, "subscribe": {"channel": "thread:t1"}}),
    (
        "1e08032a1a0a097468726561643a743118013202653138ac02480150015801",
        {
            "id": 3,
            "subscribe": {
                "channel": "thread:t1",
                "recover": True,
                "epoch": "e1",
                "offset": 300,
                "positioned": True,
                "recoverable": True,
                "join_leave": True,
            },
        },
    ),
    ("0f0804320b0a097468726561643a7431", {"id": 4, "unsubscribe": {"channel": "thread:t1"}}),
    (
        "1808053a140a097468726561643a743112077b2261223a317d",
        {"id": 5, "publish": {"channel": "thread:t1", "data": {"a": 1}}},
    ),
    ("0f0806420b0a097468726561643a7431", {"id": 6, "presence": {"channel": "thread:t1"}}),
    ("0f08074a0b0a097468726561643a7431", {"id": 7, "presence_stats": {"channel": "thread:t1"}}),
    (
        "24080852200a097468726561643a743138ffffffffffffffffff0142060805120265314801",
        {
            "id": 8,
            "history": {
                "channel": "thread:t1",
                "limit": -1,
                "since": {"offset": 5, "epoch": "e1"},
                "reverse": True,
            },
        },
    ),
    (
        "1608096a120a0a7b2278223a22c3a9227d12046563686f",
        {"id": 9, "rpc": {"data": {"x": "é"}, "method": "echo"}},
    ),
    ("0b080a72070a05742e6f2e6b", {"id": 10, "refresh": {"token": "t.o.k"}}),
    (
        "12080b7a0e0a097468726561643a7431120173",
        {"id": 11, "sub_refresh": {"channel": "thread:t1", "token": "s"}},
    ),
    ("0b62090a077b2261223a317d", {"send": {"data": {"a": 1}}}),
]

INFO: Final = ClientInfo(user="ada", client="c1", conn_info={"name": "Ada"})
PUBLICATION: Final = PublicationView(data=msgspec.Raw(b'{"a":1}'), offset=7, tags={"k": "v"}, info=INFO)
CONNECTED: Final = ConnectResult(
    client="c1",
    version="0.1",
    expires=True,
    ttl=3600,
    subs={"user:ada": SubscribeResult(recoverable=True, epoch="e1", offset=7, positioned=True)},
    ping=25,
    pong=True,
    session="s",
    node="n",
    time=1796026537929,
)
SUBSCRIBED: Final = SubscribeResult(
    recoverable=True,
    epoch="e1",
    publications=[PUBLICATION],
    recovered=True,
    offset=7,
    positioned=True,
    was_recovering=True,
)
READ: Final[list[tuple[bytes, str]]] = [
    (PROTOBUF.ping, "00"),
    (
        PROTOBUF.reply(1, "connect", CONNECTED),
        (
            "3b08012a370a0263311203302e31180120901c32160a08757365723a616461120a18013202653148075001381940014a017352016e58c9"
            "af98dca234"
        ),
    ),
    (
        PROTOBUF.reply(2, "subscribe", SUBSCRIBED),
        (
            "420802323e1801320265313a2e22077b2261223a317d2a190a03616461120263311a0e7b226e616d65223a22416461227d30073a060a01"
            "6b1201764001480750016001"
        ),
    ),
    (
        PROTOBUF.reply(8, "history", HistoryResult(publications=[PUBLICATION], epoch="e1", offset=7)),
        (
            "3a08085a360a2e22077b2261223a317d2a190a03616461120263311a0e7b226e616d65223a22416461227d30073a060a016b1201761202"
            "65311807"
        ),
    ),
    (
        PROTOBUF.reply(6, "presence", PresenceResult(presence={"c1": INFO})),
        "2508064a210a1f0a02633112190a03616461120263311a0e7b226e616d65223a22416461227d",
    ),
    (
        PROTOBUF.reply(7, "presence_stats", PresenceStatsResult(num_clients=2, num_users=1)),
        "080807520408021001",
    ),
    (PROTOBUF.reply(9, "rpc", {"data": {"x": "é"}}), "1008096a0c0a0a7b2278223a22c3a9227d"),
    (
        PROTOBUF.reply(10, "refresh", RefreshResult(client="c1", version="0.1", expires=True, ttl=3600)),
        "12080a720e0a0263311203302e31180120901c",
    ),
    (
        PROTOBUF.error(5, codes.PERMISSION_DENIED),
        "1908051215086712117065726d697373696f6e2064656e696564",
    ),
    (
        PROTOBUF.push("thread:t1", "pub", PUBLICATION),
        (
            "3d223b12097468726561643a7431222e22077b2261223a317d2a190a03616461120263311a0e7b226e616d65223a22416461227d30073a"
            "060a016b120176"
        ),
    ),
    (
        PROTOBUF.push("thread:t1", "join", {"info": INFO}),
        "2a222812097468726561643a74312a1b0a190a03616461120263311a0e7b226e616d65223a22416461227d",
    ),
    (
        PROTOBUF.push("thread:t1", "unsubscribe", {"code": 2000, "reason": "over"}),
        "18221612097468726561643a74313a0910d00f1a046f766572",
    ),
]


@pytest.mark.parametrize(("golden", "meaning"), SENT, ids=[list(meaning)[-1] for _, meaning in SENT])
def test_what_swift_sends_is_the_command_that_json_clients_send(golden: str, meaning: dict[str, Any]) -> None:
    """Each command of its source, by the bytes that its generated code writes."""
    (binary,) = PROTOBUF.decode(bytes.fromhex(golden), 32)
    (text,) = JSON.decode(json.dumps(meaning).encode(), 32)
    assert shown(binary) == shown(text)


@pytest.mark.parametrize(("made", "golden"), READ)
def test_replies_have_the_bytes_that_the_published_encoder_makes(made: bytes, golden: str) -> None:
    """Byte for byte, so that a reader of any language gets what its own schema describes."""
    assert made.hex() == golden
    assert oracle.frame(*oracle.replies(made)).hex() == golden


def field(number: int, value: bytes | int | str) -> bytes:
    """A field as Dart's generated code writes it: also at its default, if the SDK has set it."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def varint(value: int) -> bytes:
    """Dart's `CodedBufferWriter`: seven bits a byte, the lowest first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def dart(*fields: tuple[int, bytes | int | str]) -> bytes:
    """The fields of a message."""
    return b"".join(field(number, value) for number, value in fields)


@pytest.mark.parametrize(
    ("command", "meaning"),
    [
        (
            dart(
                (1, 1),
                (4, dart((1, ""), (4, "dart"), (5, ""), (6, dart((1, "authorization"), (2, "Bearer t"))))),
            ),
            {"id": 1, "connect": {"name": "dart", "headers": {"authorization": "Bearer t"}}},
        ),
        (
            dart(
                (1, 1), (4, dart((3, dart((1, "user:ada"), (2, dart((3, 0), (6, ""), (7, 0))))), (4, "dart")))
            ),
            {"id": 1, "connect": {"name": "dart", "subs": {"user:ada": {}}}},
        ),
        (
            dart(
                (1, 2),
                (5, dart((1, "thread:t1"), (2, ""), (3, 1), (6, "e1"), (7, 7), (9, 0), (10, 0), (11, 0))),
            ),
            {"id": 2, "subscribe": {"channel": "thread:t1", "recover": True, "epoch": "e1", "offset": 7}},
        ),
        (
            dart((1, 3), (10, dart((1, "thread:t1"), (7, 0), (9, 0)))),
            {"id": 3, "history": {"channel": "thread:t1"}},
        ),
        (
            dart((1, 4), (13, dart((1, b""), (2, "whoami")))),
            {"id": 4, "rpc": {"method": "whoami", "data": None}},
        ),
        (dart((1, 0)), {}),
    ],
)
def test_what_dart_sends_is_read_with_its_explicit_defaults(command: bytes, meaning: dict[str, Any]) -> None:
    """A field that is there with its default value is as good as absent; an empty payload is `null`."""
    (binary,) = PROTOBUF.decode(varint(len(command)) + command, 32)
    (text,) = JSON.decode(json.dumps(meaning).encode(), 32)
    assert shown(binary) == shown(text)
