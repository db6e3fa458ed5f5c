"""The client's side of the wire: the server's side reads its frames, and received frames come out in order."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.protocol.client import (
    PONG,
    ClientSession,
    MalformedMessage,
    Message,
    Ping,
    Push,
    ReceivedPublication,
    Reply,
    StreamPosition,
    decode_messages,
)
from narthex.protocol.codes import BAD_REQUEST, INTERNAL, SHUTDOWN
from narthex.protocol.commands import ConnectRequest, RpcRequest, SubscribeRequest, decode_frame, request_of
from narthex.protocol.replies import (
    PING,
    ConnectResult,
    PublicationView,
    SubscribeResult,
    encode_disconnect,
    encode_error,
    encode_publication,
    encode_push,
    encode_reply,
    push_prefix,
)

CHANNEL = "thread:one"


def publication(offset: int, channel: str = CHANNEL) -> bytes:
    """A push of the server's."""
    return encode_publication(push_prefix(channel), b'{"n":%d}' % offset, offset)


def view(offset: int) -> PublicationView:
    """A recovered one, as the server encodes it."""
    return PublicationView(data=msgspec.Raw(b'{"n":%d}' % offset), offset=offset)


def pushed(offset: int, channel: str = CHANNEL) -> Push:
    """The messages for either."""
    return Push(channel, ReceivedPublication({"n": offset}, offset))


def subscribed(since: StreamPosition | None = None) -> ClientSession:
    """A session whose first command was a subscription."""
    session = ClientSession()
    assert session.send("subscribe", {"channel": CHANNEL, **(since.recovery if since else {})}) == 1
    session.data_to_send()
    return session


def test_the_servers_side_reads_every_command() -> None:
    """Ids count from 1, and each command is one frame."""
    session = ClientSession()
    here = StreamPosition(7, "e")
    numbers = [
        session.send("connect", {"token": "t", "subs": {"user:ada": here.recovery}}),
        session.send("subscribe", {"channel": CHANNEL, **here.recovery}),
        session.send("subscribe", {"channel": "thread:two"}),
        session.send("rpc", {"method": "echo", "data": {"x": "é"}}),
    ]
    sent = session.data_to_send()
    assert session.data_to_send() == []
    commands = [command for frame in sent for command in decode_frame(frame)]
    assert [command.id for command in commands] == numbers == [1, 2, 3, 4]
    assert [request_of(command) for command in commands] == [
        ("connect", ConnectRequest(token="t", subs={"user:ada": SubscribeRequest(recover=True, offset=7, epoch="e")})),
        ("subscribe", SubscribeRequest(channel=CHANNEL, recover=True, offset=7, epoch="e")),
        ("subscribe", SubscribeRequest(channel="thread:two")),
        ("rpc", RpcRequest(method="echo", data=msgspec.Raw('{"x":"é"}'.encode()))),
    ]  # fmt: skip


def test_every_message_of_the_servers_side_is_read() -> None:
    """Replies, errors, pushes, a ping and a disconnect, in one text message or alone, as bytes or text."""
    lines = [
        encode_reply(3, "rpc", {"data": {"a": 1}}),
        encode_reply(4, "publish", {}),
        encode_error(5, INTERNAL),
        PING,
        publication(9),
        encode_push(CHANNEL, "unsubscribe", {"code": 2500, "reason": "gone"}),
        encode_push(CHANNEL, "leave", {"info": {"user": "ada", "client": "c"}}),
        encode_disconnect(SHUTDOWN),
        b'{"id":6}',
    ]
    found = decode_messages(b"\n".join(lines))
    assert found == [
        Reply(3, "rpc", {"data": {"a": 1}}),
        Reply(4, "publish", {}),
        Reply(5, "", {}, INTERNAL),
        Ping(),
        pushed(9),
        Push(CHANNEL, unsubscribe={"code": 2500, "reason": "gone"}),
        Push(CHANNEL, leave={"info": {"user": "ada", "client": "c"}}),
        SHUTDOWN,
        Reply(6, "", {}),
    ]
    assert [decode_messages(line.decode())[0] for line in lines] == found


def test_a_line_separator_inside_a_text_is_no_end_of_a_line() -> None:
    """`str.splitlines` knows ten line ends, JSON lines have one; a model's answer may hold the others."""
    text = encode_reply(1, "rpc", {"data": "a\u2028b\u0085c"}).decode() + "\n" + PING.decode()
    assert decode_messages(text) == [Reply(1, "rpc", {"data": "a\u2028b\u0085c"}), Ping()]


@pytest.mark.parametrize(
    "text",
    [
        *("5", "[]", "{", "nothing", "[" * 5000, '{"id":"1"}', '{"push":5}', '{"push":{"pub":"x"}}'),
        *('{"push":{"channel":[]}}', '{"id":1,"error":"x"}', '{"id":1,"rpc":[]}', '{"push":{"disconnect":{}}}'),
        *('{"id":1,"subscribe":{"offset":"x"}}', '{"id":1,"subscribe":{"publications":[5]}}'),
        *('{"id":1,"rpc":{}}', '{"id":1}', "{}\n5", b"\xff"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_malformed(text: str | bytes) -> None:
    """Anything a broken server sends ends in this one exception, and none of it is used."""
    session = subscribed()
    with pytest.raises(MalformedMessage, match=r"\S"):
        session.receive(text)
    assert session.positions == {}


def test_what_is_not_known_is_passed_over() -> None:
    """A later version may add members and pushes."""
    session = ClientSession()
    assert session.receive('{"push":{"channel":"x","new":{}},"more":1}') == [Push("x")]
    assert session.receive('{"id":77,"connect":{"subs":5}}') == [Reply(77, "connect", {"subs": 5})]
    assert session.positions == {}


def test_a_ping_is_answered_and_counted() -> None:
    """The pong stands behind the commands that were queued before it."""
    session = ClientSession()
    session.send("connect", {})
    assert session.receive("{}\n{}") == [Ping(), Ping()]
    assert session.data_to_send() == [b'{"id":1,"connect":{}}', PONG, PONG]
    assert session.pings == 2


def test_what_was_recovered_comes_before_what_follows_it() -> None:
    """Also where a live publication stands behind the reply in the same text message."""
    session = subscribed(StreamPosition(1, "e"))
    result = SubscribeResult(recovered=True, epoch="e", offset=3, publications=[view(2), view(3)])
    found = session.receive(encode_reply(1, "subscribe", result) + b"\n" + publication(4))
    assert found[1:] == [pushed(2), pushed(3), pushed(4)]
    assert session.positions == {CHANNEL: StreamPosition(4, "e")}


def test_channels_of_the_server_are_recovered_with_connect() -> None:
    """Each has its position, also where nothing was missed."""
    session = ClientSession()
    session.send("connect", {"subs": {"user:ada": StreamPosition(1, "e").recovery}})
    subs = {
        "user:ada": SubscribeResult(recovered=True, epoch="e", offset=2, publications=[view(2)]),
        "news": SubscribeResult(epoch="f", offset=5),
    }
    reply, *rest = session.receive(encode_reply(1, "connect", ConnectResult("c", "v", subs=subs)))
    assert isinstance(reply, Reply)
    assert reply.result["client"] == "c"
    assert rest == [pushed(2, "user:ada")]
    assert session.positions == {"user:ada": StreamPosition(2, "e"), "news": StreamPosition(5, "f")}


def test_a_lost_position_is_replaced_by_the_servers() -> None:
    """Another epoch, and an offset below the old one: the server decides both."""
    session = subscribed(StreamPosition(90, "old"))
    session.receive(encode_reply(1, "subscribe", SubscribeResult(epoch="new", offset=3, was_recovering=True)))
    assert session.positions == {CHANNEL: StreamPosition(3, "new")}


def test_neither_an_error_nor_a_publication_without_an_offset_moves_a_position() -> None:
    """A refused subscription has none, and what no history keeps cannot be recovered."""
    session = subscribed()
    (reply,) = session.receive(encode_error(1, BAD_REQUEST))
    assert isinstance(reply, Reply)
    assert reply.error == BAD_REQUEST
    session.receive(publication(0))
    assert session.positions == {}


WORDS = ("connect", "subscribe", "rpc", "history", "refresh")


@given(st.lists(st.sampled_from(WORDS), max_size=12), st.data())
def test_any_order_and_grouping_gives_each_command_its_reply(
    commands: list[str], data: st.DataObject
) -> None:
    """Replies overtake each other, pushes and pings stand between them, and text messages end anywhere between two."""
    session = ClientSession()
    channels: dict[int, str] = {}
    for command in commands:
        body = {"channel": f"channel-{len(channels) + 1}"} if command == "subscribe" else {}
        number = session.send(command, body)
        channels[number] = body.get("channel", "")
    session.data_to_send()
    bodies: dict[int, object] = {}
    lines: list[tuple[bytes, list[Message]]] = [(PING, [Ping()])] * data.draw(st.integers(0, 3))
    for number, command in enumerate(commands, 1):
        if data.draw(st.booleans(), label="fails"):
            lines.append((encode_error(number, INTERNAL), [Reply(number, command, {}, INTERNAL)]))
            continue
        offsets = data.draw(st.lists(st.integers(1, 9), max_size=3)) if command == "subscribe" else []
        result = {"number": number, "epoch": "e", "offset": max(offsets, default=0)}
        views = [{"data": {"n": offset}, "offset": offset} for offset in offsets]
        bodies[number] = result | ({"publications": views} if views else {})
        wanted: list[Message] = [Reply(number, command, bodies[number])]  # type: ignore[arg-type]  # a dict
        wanted += [pushed(offset, channels[number]) for offset in offsets]
        lines.append((encode_reply(number, command, bodies[number]), wanted))
    live = data.draw(st.lists(st.integers(1, 50), max_size=6))
    lines += [(publication(offset, "live"), [pushed(offset, "live")]) for offset in live]
    lines = data.draw(st.permutations(lines))

    found: list[Message] = []
    at = 0
    while at < len(lines):
        step = data.draw(st.integers(1, len(lines) - at))
        found += session.receive(b"\n".join(line for line, _ in lines[at : at + step]))
        at += step

    wanted_all = [message for _, messages in lines for message in messages]
    assert found == wanted_all
    assert session.pings == sum(isinstance(message, Ping) for message in wanted_all)
    assert session.data_to_send() == [PONG] * session.pings
    last: dict[str, int] = {}
    for message in wanted_all:
        if isinstance(message, Push) and message.pub is not None:
            last[message.channel] = message.pub.offset
    assert {channel: place.offset for channel, place in session.positions.items() if place.offset} == last
