"""The client side of the Centrifuge client protocol v2 in JSON: commands out, replies and pushes in. Sans-IO.

Not here: sockets and WebSocket frames, waiting, reconnecting, the meaning of an RPC. For the server's side see
`commands` (decoding), `replies` (encoding) and `session`. A driver opens a socket, makes a `ClientSession` for it,
sends each message of `data_to_send` as one text message, and gives each text message of the server to `receive`:

    session = ClientSession()
    number = session.send("connect", {})
    for message in session.data_to_send(): …      after each command and after each `receive`
    for message in session.receive(text): …       the Reply whose `id` is `number`; pushes; pings, already answered

After a reconnect the members `recovery` of an old position, in `subscribe` or in `connect.subs` for the channels that
the server subscribes, ask for the missed publications. Those of such a reply are handed out as pushes behind it, so a
driver handles publications in one place. Nothing is filtered: one that the server sends twice comes out twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import msgspec

from narthex.protocol.codes import Disconnect, ReplyError

PONG: Final = b"{}"
"""Answers a ping. `receive` queues it; a driver without a session sends it itself."""

Body = dict[str, Any]


class MalformedMessage(Exception):
    """The server sent a message that is neither a reply nor a push; the exception's message describes the fault."""


class StreamPosition(NamedTuple):
    """A place in a channel's history: the offset of its last known publication, in the history called `epoch`.

    The default stands before a channel's first publication: to recover from it replays the whole channel.
    """

    offset: int = 0
    epoch: str = ""

    @property
    def recovery(self) -> Body:
        """The members of `subscribe`, or of one of `connect.subs`, which ask for everything after this position."""
        return {"recover": True, "offset": self.offset, "epoch": self.epoch}


class ReceivedPublication(msgspec.Struct, gc=False):
    """`data` as it was published; `offset` 0 is one that no history keeps."""

    data: Any = None
    offset: int = 0


class Push(msgspec.Struct, gc=False):
    """An unrequested message of the server about a channel: one of the members after `channel` is set."""

    channel: str = ""
    pub: ReceivedPublication | None = None
    join: Body | None = None
    leave: Body | None = None
    subscribe: Body | None = None
    unsubscribe: Body | None = None
    disconnect: Disconnect | None = None


class Reply(NamedTuple):
    """The answer to the command `id`.

    Attributes:
        command: its name, such as `rpc`; empty with an error, unless a session sent the command.
        result: the members that docs/protocol.md shows under that name; empty with an error.
        error: why the command failed; None when it did not.
    """

    id: int
    command: str
    result: Body
    error: ReplyError | None = None


class Ping(NamedTuple):
    """The server checks whether the client is alive: the answer is `PONG`."""


Message = Reply | Push | Disconnect | Ping
"""`Disconnect` comes as a message only over transports that have no close frame."""


class _Line(msgspec.Struct, gc=False):
    id: int = 0
    error: ReplyError | None = None
    push: Push | None = None
    rpc: Body | None = None
    connect: Body | None = None
    subscribe: Body | None = None
    unsubscribe: Body | None = None
    publish: Body | None = None
    history: Body | None = None
    presence: Body | None = None
    presence_stats: Body | None = None
    refresh: Body | None = None
    sub_refresh: Body | None = None


class _Subscribed(msgspec.Struct):
    offset: int = 0
    epoch: str = ""
    publications: list[ReceivedPublication] | None = None


_RESULTS: Final = _Line.__struct_fields__[3:]
_PING: Final = Ping()
_lines: Final = msgspec.json.Decoder(_Line).decode_lines
_encode: Final = msgspec.json.Encoder().encode


def encode_command(number: int, command: str, body: Mapping[str, Any]) -> bytes:
    """`{"id":…,"<command>":<body>}`."""
    return b'{"id":%d,"%s":%s}' % (number, command.encode(), _encode(body))


def decode_messages(text: bytes | str) -> list[Message]:
    """Decode one text message of the server into its newline-joined protocol messages, in order.

    Raises:
        MalformedMessage: some line is no message; none of the messages is returned.
    """
    try:
        return [
            # A publication in a push is the frequent line; without a call for it, a load generator saves 2 %.
            line.push if line.push is not None and line.push.disconnect is None else _message(line)
            for line in _lines(text)
        ]
    except (msgspec.DecodeError, RecursionError) as fault:
        raise MalformedMessage(str(fault)) from fault


def _message(line: _Line) -> Message:
    if line.push is not None and line.push.disconnect is not None:
        return line.push.disconnect
    if not line.id:
        return _PING
    if line.error is not None:
        return Reply(line.id, "", {}, line.error)
    for command in _RESULTS:
        result: Body | None = getattr(line, command)
        if result is not None:
            return Reply(line.id, command, result)
    return Reply(line.id, "", {})


class ClientSession:
    """One connection: numbers its commands, answers pings, follows the position in each channel. See the module.

    Attributes:
        positions: by channel, the position up to which the server has sent everything.
        pings: number of pings from the server.
    """

    __slots__ = ("_last", "_outgoing", "_waiting", "pings", "positions")

    def __init__(self) -> None:
        self.positions: dict[str, StreamPosition] = {}
        self.pings = 0
        self._last = 0
        self._waiting: dict[int, tuple[str, str]] = {}  # command and channel of each that has no reply
        self._outgoing: list[bytes] = []

    def send(self, command: str, body: Mapping[str, Any]) -> int:
        """Queue a command; returns its id, which its reply carries."""
        self._last += 1
        self._waiting[self._last] = (command, str(body.get("channel", "")))
        self._outgoing.append(encode_command(self._last, command, body))
        return self._last

    def data_to_send(self) -> list[bytes]:
        """Take the queued commands and pongs, in order: each is one text message."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    def receive(self, text: bytes | str) -> list[Message]:
        """Take a text message of the server.

        Returns:
            Its messages in order, and behind each reply that recovered publications a push for each of them.

        Raises:
            MalformedMessage: the text is no message, or a reply of another command than its id. Close the connection.
        """
        found: list[Message] = []
        for message in decode_messages(text):
            if isinstance(message, Reply) and message.id in self._waiting:
                found += self._replied(message)
                continue
            if isinstance(message, Push):
                self._follow(message)
            elif isinstance(message, Ping):
                self.pings += 1
                self._outgoing.append(PONG)
            found.append(message)
        return found

    def _replied(self, reply: Reply) -> list[Message]:
        """Match a reply to its command; returns the reply, and pushes for the publications that it recovered."""
        command, channel = self._waiting.pop(reply.id)
        if reply.error is not None:
            return [reply._replace(command=command)]
        if reply.command != command:
            raise MalformedMessage(f"the reply to {command} is one to {reply.command or 'no command'}")
        results = {"subscribe": {channel: reply.result}, "connect": reply.result.get("subs")}.get(command)
        try:
            subscribed = msgspec.convert(results or {}, dict[str, _Subscribed])
        except msgspec.ValidationError as fault:
            raise MalformedMessage(str(fault)) from fault
        recovered: list[Push] = []
        for channel, result in subscribed.items():
            self.positions[channel] = StreamPosition(result.offset, result.epoch)
            recovered += [Push(channel, publication) for publication in result.publications or ()]
        for push in recovered:
            self._follow(push)
        return [reply, *recovered]

    def _follow(self, push: Push) -> None:
        if push.pub is not None and push.pub.offset:
            known = self.positions.get(push.channel, StreamPosition())
            self.positions[push.channel] = StreamPosition(push.pub.offset, known.epoch)
