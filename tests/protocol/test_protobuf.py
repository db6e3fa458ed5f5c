"""The protobuf format against Google's protobuf as the oracle, and against JSON: same commands, same replies.

Every message that clients may send is made by the oracle from the published schema; every reply is read by it.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from narthex.protocol import protobuf_schema as protobuf
from narthex.protocol import replies as json_replies
from narthex.protocol.codec import JSON, PROTOBUF
from narthex.protocol.codes import BAD_REQUEST, SHUTDOWN
from narthex.protocol.commands import MEMBERS, Command, FrameError, decode_frame
from narthex.protocol.protobuf import read_varint, varint
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

WORDS: Final = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
VALUES: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
COUNTERS: Final = st.integers(0, 2**64 - 1)
SUBSCRIPTION: Final = st.fixed_dictionaries(
    {},
    optional={
        "token": WORDS,
        "recover": st.booleans(),
        "epoch": WORDS,
        "offset": COUNTERS,
        "positioned": st.booleans(),
        "recoverable": st.booleans(),
        "join_leave": st.booleans(),
    },
)
BODIES: Final = {
    "connect": st.fixed_dictionaries(
        {},
        optional={
            "token": WORDS,
            "name": WORDS,
            "version": WORDS,
            "subs": st.dictionaries(WORDS, SUBSCRIPTION, max_size=3),
            "headers": st.dictionaries(WORDS, WORDS, max_size=3),
        },
    ),
    "subscribe": st.builds(lambda body, channel: body | {"channel": channel}, SUBSCRIPTION, WORDS),
    **dict.fromkeys(
        ("unsubscribe", "presence", "presence_stats"), st.fixed_dictionaries({}, optional={"channel": WORDS})
    ),
    "publish": st.fixed_dictionaries({"channel": WORDS, "data": VALUES}),
    "history": st.fixed_dictionaries(
        {},
        optional={
            "channel": WORDS,
            "limit": st.integers(-(2**31), 2**31 - 1),
            "since": st.fixed_dictionaries({}, optional={"offset": COUNTERS, "epoch": WORDS}),
            "reverse": st.booleans(),
        },
    ),
    "ping": st.just({}),
    "send": st.fixed_dictionaries({"data": VALUES}),
    "rpc": st.fixed_dictionaries({"data": VALUES}, optional={"method": WORDS}),
    "refresh": st.fixed_dictionaries({}, optional={"token": WORDS}),
    "sub_refresh": st.fixed_dictionaries({}, optional={"channel": WORDS, "token": WORDS}),
}
COMMANDS: Final = st.sampled_from(list(BODIES)).flatmap(
    lambda name: st.builds(
        lambda number, body: {"id": number, name: body}, st.integers(0, 2**32 - 1), BODIES[name]
    )
)


def filled(target: Any, value: dict[str, Any]) -> Any:
    """The oracle's message of a JSON command."""
    for name, member in value.items():
        if name == "data":
            target.data = json.dumps(member).encode()
        elif name == "subs":
            for channel, body in member.items():
                filled(target.subs[channel], body)
        elif name == "headers":
            target.headers.update(member)
        elif isinstance(member, dict):
            filled(getattr(target, name), member)
            getattr(target, name).SetInParent()
        else:
            setattr(target, name, member)
    return target


def shown(command: Command) -> Any:
    """A command as plain values, without the members that are at their defaults."""

    def plain(value: Any) -> Any:
        if isinstance(value, msgspec.Raw):
            try:
                return ["data", msgspec.json.decode(value)]
            except msgspec.DecodeError:  # of a payload that no handler reads
                return bytes(value)
        if isinstance(value, msgspec.Struct):
            members = {name: plain(getattr(value, name)) for name in value.__struct_fields__}
            return {
                name: member for name, member in members.items() if member not in (None, "", 0, False, {})
            }
        if isinstance(value, dict):
            return {key: plain(member) for key, member in value.items()}
        return value

    return [
        command.id,
        {name: plain(getattr(command, name)) for name in MEMBERS if getattr(command, name) is not None},
    ]


@given(st.lists(COMMANDS, min_size=1, max_size=4))
def test_both_formats_decode_to_the_same_commands(batch: list[dict[str, Any]]) -> None:
    """The oracle's bytes of a batch of commands mean what the same batch means in JSON."""
    binary = protobuf.decode_frame(oracle.frame(*[filled(oracle.Command(), command) for command in batch]))
    text = decode_frame(b"\n".join(json.dumps(command).encode() for command in batch))
    assert [shown(command) for command in binary] == [shown(command) for command in text]


@given(st.lists(COMMANDS, min_size=2, max_size=2))
def test_repeated_sub_messages_merge_and_the_last_scalar_counts(
    batch: list[dict[str, Any]],
) -> None:
    """The bytes of two messages behind each other are one message, as the oracle reads it."""
    both = b"".join(filled(oracle.Command(), command).SerializeToString() for command in batch)
    merged = oracle.Command.FromString(both)
    found = protobuf.decode_frame(oracle.length(both) + both)
    assert [shown(command) for command in found] == [
        shown(command) for command in protobuf.decode_frame(oracle.frame(merged))
    ]


@given(
    st.lists(COMMANDS, min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 400), st.binary(max_size=3), st.integers(0, 3)), max_size=3),
)
def test_damaged_frames_are_refused_where_the_oracle_refuses_and_read_as_it_reads_them(
    batch: list[dict[str, Any]], cuts: list[tuple[int, bytes, int]]
) -> None:
    """Bytes replaced, inserted and cut: only `FrameError`, and never another reading than the oracle's."""
    damaged = oracle.frame(*[filled(oracle.Command(), command) for command in batch])
    for place, inserted, dropped in cuts:
        at = place % (len(damaged) + 1)
        damaged = damaged[:at] + inserted + damaged[at + dropped :]
    compare(damaged)


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_read_as_the_oracle_reads_them(data: bytes) -> None:
    """Noise never raises anything but `FrameError`."""
    compare(data)


def compare(data: bytes) -> None:
    """Decode with both; narthex may refuse more (groups, payloads that are not JSON), but never reads otherwise."""
    try:
        mine = protobuf.decode_frame(data)
    except FrameError as fault:
        assert fault.reason
        if any(part in fault.reason for part in ("wire type", "not valid JSON", "nests deeper")):
            return
        with pytest.raises((DecodeError, IndexError, AssertionError)):
            oracle_commands(data)
        return
    try:
        theirs = oracle_commands(data)
    except DecodeError:
        return  # a field that narthex does not read is wrong inside
    again = protobuf.decode_frame(b"".join(oracle.length(raw) + raw for raw in theirs))
    assert [shown(command) for command in mine] == [shown(command) for command in again]


def oracle_commands(data: bytes) -> list[bytes]:
    """The frame's commands, parsed and written anew by Google's library."""
    found: list[bytes] = []
    at = 0
    while at < len(data):
        size, at = read_varint_slowly(data, at)
        assert at + size <= len(data)
        found.append(oracle.Command.FromString(data[at : at + size]).SerializeToString())
        at += size
    assert found
    return found


def read_varint_slowly(data: bytes, at: int) -> tuple[int, int]:
    """A varint by its definition."""
    digits: list[int] = []
    while True:
        digits.append(data[at] & 0x7F)
        at += 1
        if data[at - 1] < 0x80:
            break
    value = sum(digit << 7 * place for place, digit in enumerate(digits))
    assert len(digits) <= 10
    assert value < 2**64
    return value, at


@given(COUNTERS)
def test_varints_come_back(value: int) -> None:
    """Every unsigned integer of 64 bits, in no more than ten bytes."""
    assert read_varint(varint(value), 0) == (value, len(varint(value)))
    assert len(varint(value)) <= 10


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "an empty frame"),
        (b"\x05\x08\x01", "cut off"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00", "cut off"),
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", "64 bits"),
        (b"\x80" * 11, "64 bits"),
        (b"\x80", "cut off"),
        (b"\x0b" + b"\x08" + b"\x80" * 9 + b"\x02", "64 bits"),
        (b"\x02\x00\x00", "without a number"),
        (b"\x02\x0b\x0c", "wire type"),
        (b"\x02\x0f\x01", "wire type"),
        (b"\x03\x6a\x7f\x00", "cut off"),
        (b"\x05\x6a\x03\x12\x01\xff", "UTF-8"),
        (b"\x06\x6a\x04\x0a\x02{]", "rpc.data is not valid JSON"),
        (b"\x06\x6a\x04\x0a\x02\xff\xfe", "rpc.data is not valid JSON"),
        (b"\x46\x6a\x44\x0a\x42" + b"[" * 33 + b"]" * 33, "rpc.data nests deeper than 32"),
        (b"\x00" * 1_025, "more than 1024 commands"),
    ],
)
def test_a_frame_of_bad_bytes_is_refused_with_its_fault(data: bytes, reason: str) -> None:
    """Overflow, truncation, lengths beyond the frame, groups, text that is no UTF-8, payloads that are no JSON."""
    with pytest.raises(FrameError, match=reason):
        protobuf.decode_frame(data)


def test_unknown_fields_are_skipped_however_they_are_nested() -> None:
    """A newer SDK's fields, a deep filter among them, change nothing and cost no recursion."""
    command = oracle.Command(id=1)
    command.subscribe.channel = "thread:t"
    command.subscribe.delta = "fossil"
    node = command.subscribe.tf
    for _ in range(90):
        node = node.nodes.add(op="and")
    raw = (
        command.SerializeToString()
        + b"\xa2\x06\x02hi"
        + b"\xa5\x06abcd"
        + b"\xa1\x06abcdefgh"
        + b"\xa0\x06\x7f"
        + b"\x80\x01\x05"  # field 16, the first whose tag takes two bytes
    )
    (found,) = protobuf.decode_frame(oracle.length(raw) + raw)
    assert found.subscribe is not None
    assert found.subscribe.channel == "thread:t"


def test_half_of_a_pair_in_a_payload_becomes_a_replacement() -> None:
    """As in JSON: an escape of half an emoji must not end the connection."""
    command = oracle.Command(id=1)
    command.rpc.method, command.rpc.data = "echo", b'{"a":"\\ud83d"}'
    (found,) = protobuf.decode_frame(oracle.frame(command))
    assert found.rpc is not None
    assert msgspec.json.decode(found.rpc.data) == {"a": "\ufffd"}


INFO: Final = st.builds(
    ClientInfo, user=WORDS, client=WORDS, conn_info=st.none() | st.dictionaries(WORDS, WORDS)
)
VIEWS: Final = st.builds(
    PublicationView,
    data=VALUES.map(lambda value: msgspec.Raw(msgspec.json.encode(value))),
    offset=COUNTERS,
    tags=st.none() | st.dictionaries(WORDS, WORDS, min_size=1, max_size=2),
    info=st.none() | INFO,
)
SUBSCRIBED: Final = st.builds(
    SubscribeResult,
    recoverable=st.booleans(),
    epoch=WORDS,
    publications=st.none() | st.lists(VIEWS, max_size=2),
    recovered=st.booleans(),
    offset=COUNTERS,
    positioned=st.booleans(),
    was_recovering=st.booleans(),
)
NUMBERS: Final = st.integers(0, 2**32 - 1)
RESULTS: Final = st.one_of(
    st.tuples(
        st.just("connect"),
        st.builds(
            ConnectResult,
            client=WORDS,
            version=WORDS,
            expires=st.booleans(),
            ttl=NUMBERS,
            subs=st.none() | st.dictionaries(WORDS, SUBSCRIBED, max_size=2),
            ping=NUMBERS,
            pong=st.booleans(),
            session=WORDS,
            node=WORDS,
            time=st.integers(0, 2**63 - 1),
        ),
    ),
    st.tuples(st.just("subscribe"), SUBSCRIBED),
    st.tuples(st.sampled_from(["unsubscribe", "publish", "ping"]), st.just({})),
    st.tuples(
        st.just("presence"), st.builds(PresenceResult, presence=st.dictionaries(WORDS, INFO, max_size=2))
    ),
    st.tuples(
        st.just("presence_stats"), st.builds(PresenceStatsResult, num_clients=NUMBERS, num_users=NUMBERS)
    ),
    st.tuples(
        st.just("history"),
        st.builds(HistoryResult, publications=st.lists(VIEWS, max_size=2), epoch=WORDS, offset=COUNTERS),
    ),
    st.tuples(
        st.just("rpc"), st.fixed_dictionaries({"data": VALUES.filter(lambda value: value is not None)})
    ),
    st.tuples(
        st.just("refresh"),
        st.builds(RefreshResult, client=WORDS, version=WORDS, expires=st.booleans(), ttl=NUMBERS),
    ),
)


def rebuilt(target: Any, value: dict[str, Any]) -> Any:
    """The oracle's message of a JSON reply: payloads become bytes, sub-messages and maps are filled in."""
    for name, member in value.items():
        if name in ("data", "conn_info"):
            setattr(target, name, msgspec.json.encode(member))
        elif name == "tags":
            target.tags.update(member)
        elif name in ("subs", "presence") and target.DESCRIPTOR.name != "Reply":
            for key, body in member.items():
                rebuilt(getattr(target, name)[key], body)
        elif isinstance(member, dict):
            rebuilt(getattr(target, name), member)
            getattr(target, name).SetInParent()
        elif isinstance(member, list):
            for item in member:
                rebuilt(getattr(target, name).add(), item)
        else:
            setattr(target, name, member)
    return target


@given(NUMBERS.filter(bool), RESULTS)
def test_both_formats_say_the_same_in_a_reply(number: int, result: tuple[str, Any]) -> None:
    """The oracle reads from the bytes what JSON clients read from the text."""
    member, value = result
    (binary,) = oracle.replies(PROTOBUF.reply(number, member, value))
    text = json.loads(JSON.reply(number, member, value))
    assert binary == rebuilt(oracle.Reply(), text)


@given(WORDS.filter(bool), VIEWS)
def test_a_publication_is_the_same_alone_and_prepared_for_a_channel(
    channel: str, publication: PublicationView
) -> None:
    """The encoder of the fan-out and that of single pushes agree, and the oracle reads both."""
    data, tags, info = bytes(publication.data), publication.tags, publication.info
    fast = protobuf.encode_publication(protobuf.push_prefix(channel), data, publication.offset, tags, info)
    slow = PROTOBUF.push(channel, "pub", publication)
    (one,), (other,) = oracle.replies(fast), oracle.replies(slow)
    assert one == other
    assert (one.push.channel, one.push.pub.offset) == (channel, publication.offset)
    assert json.loads(one.push.pub.data) == json.loads(data)
    text = json_replies.encode_publication(
        json_replies.push_prefix(channel), data, publication.offset, tags, info
    )
    assert json.loads(text) == json.loads(JSON.push(channel, "pub", publication))


def test_pushes_and_errors_of_both_formats() -> None:
    """Joins, ends, disconnects, errors and pings, read by the oracle."""
    info = ClientInfo(user="ada", client="c1", conn_info={"name": "Ada"})
    (join,) = oracle.replies(PROTOBUF.push("thread:t", "join", {"info": info}))
    assert (join.push.join.info.user, json.loads(join.push.join.info.conn_info)) == ("ada", {"name": "Ada"})
    (end,) = oracle.replies(PROTOBUF.push("thread:t", "unsubscribe", {"code": 2000, "reason": "over"}))
    assert (end.push.channel, end.push.unsubscribe.code, end.push.unsubscribe.reason) == (
        "thread:t",
        2000,
        "over",
    )
    (added,) = oracle.replies(
        PROTOBUF.push("thread:t", "subscribe", SubscribeResult(recoverable=True, offset=7))
    )
    assert (added.push.subscribe.recoverable, added.push.subscribe.offset) == (True, 7)
    (bye,) = oracle.replies(PROTOBUF.disconnect(SHUTDOWN))
    assert (bye.push.disconnect.code, bye.push.disconnect.reconnect) == (3001, True)
    (error,) = oracle.replies(PROTOBUF.error(7, BAD_REQUEST))
    assert (error.id, error.error.code, error.error.message) == (7, 107, "bad request")
    assert PROTOBUF.ping == oracle.frame(oracle.Reply()) == oracle.frame(oracle.Command())


@given(WORDS, WORDS, st.binary(max_size=40))
def test_an_emulation_request_is_read_as_the_oracle_wrote_it(node: str, session: str, data: bytes) -> None:
    """Node, session and a frame; a name that is too long, or bytes that are no message, are a `FrameError`."""
    body = oracle.EmulationRequest(node=node, session=session, data=data).SerializeToString()
    found = protobuf.decode_emulation(body)
    assert (found.node, found.session, found.data) == (node, session, data)
    with pytest.raises(FrameError):
        protobuf.decode_emulation(body + b"\x0a\xff")
    with pytest.raises(FrameError):
        protobuf.decode_emulation(oracle.EmulationRequest(node="n" * 101).SerializeToString())
