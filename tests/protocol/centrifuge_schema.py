"""The published schema of the Centrifuge protocol as message classes of Google's protobuf: the oracle of the codec.

Described here once more, not derived from narthex's tables, so that a wrong number in those does not agree with itself.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_TYPES: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {
    "string": _TYPES.TYPE_STRING,
    "bytes": _TYPES.TYPE_BYTES,
    "bool": _TYPES.TYPE_BOOL,
    "uint32": _TYPES.TYPE_UINT32,
    "uint64": _TYPES.TYPE_UINT64,
    "int32": _TYPES.TYPE_INT32,
    "int64": _TYPES.TYPE_INT64,
}
SCHEMA: Final = """
Error: code uint32 1, message string 2, temporary bool 3
EmulationRequest: node string 1, session string 2, data bytes 3
Command: id uint32 1, connect ConnectRequest 4, subscribe SubscribeRequest 5, unsubscribe ChannelRequest 6,
 publish PublishRequest 7, presence ChannelRequest 8, presence_stats ChannelRequest 9, history HistoryRequest 10,
 ping Nothing 11, send SendRequest 12, rpc RPCRequest 13, refresh RefreshRequest 14, sub_refresh SubRefreshRequest 15
Reply: id uint32 1, error Error 2, push Push 4, connect ConnectResult 5, subscribe SubscribeResult 6,
 unsubscribe Nothing 7, publish Nothing 8, presence PresenceResult 9, presence_stats PresenceStatsResult 10,
 history HistoryResult 11, ping Nothing 12, rpc RPCResult 13, refresh RefreshResult 14, sub_refresh SubRefreshResult 15
Push: id int64 1, channel string 2, pub Publication 4, join Present 5, leave Present 6, unsubscribe Unsubscribe 7,
 message SendRequest 8, subscribe Subscribe 9, connect ConnectResult 10, disconnect Disconnect 11, refresh Refresh 12
ClientInfo: user string 1, client string 2, conn_info bytes 3, chan_info bytes 4
Publication: data bytes 4, info ClientInfo 5, offset uint64 6, tags *string 7, delta bool 8, time int64 9,
 channel string 10
Present: info ClientInfo 1
Unsubscribe: code uint32 2, reason string 3
Subscribe: recoverable bool 1, epoch string 4, offset uint64 5, positioned bool 6, data bytes 7
Disconnect: code uint32 1, reason string 2, reconnect bool 3
Refresh: expires bool 1, ttl uint32 2
ConnectRequest: token string 1, data bytes 2, subs *SubscribeRequest 3, name string 4, version string 5,
 headers *string 6, flag int64 7
ConnectResult: client string 1, version string 2, expires bool 3, ttl uint32 4, data bytes 5, subs *SubscribeResult 6,
 ping uint32 7, pong bool 8, session string 9, node string 10, time int64 11
RefreshRequest: token string 1
RefreshResult: client string 1, version string 2, expires bool 3, ttl uint32 4
SubscribeRequest: channel string 1, token string 2, recover bool 3, epoch string 6, offset uint64 7, data bytes 8,
 positioned bool 9, recoverable bool 10, join_leave bool 11, delta string 12, tf FilterNode 13, flag int64 14
SubscribeResult: expires bool 1, ttl uint32 2, recoverable bool 3, epoch string 6, publications +Publication 7,
 recovered bool 8, offset uint64 9, positioned bool 10, data bytes 11, was_recovering bool 12, delta bool 13
SubRefreshRequest: channel string 1, token string 2
SubRefreshResult: expires bool 1, ttl uint32 2
ChannelRequest: channel string 1
PublishRequest: channel string 1, data bytes 2
PresenceResult: presence *ClientInfo 1
PresenceStatsResult: num_clients uint32 1, num_users uint32 2
StreamPosition: offset uint64 1, epoch string 2
HistoryRequest: channel string 1, limit int32 7, since StreamPosition 8, reverse bool 9
HistoryResult: publications +Publication 1, epoch string 2, offset uint64 3
RPCRequest: data bytes 1, method string 2
RPCResult: data bytes 1
SendRequest: data bytes 1
FilterNode: op string 1, key string 2, nodes +FilterNode 6
Nothing:
"""
"""`+` is repeated, `*` is a map from strings. Of `Nothing` are the messages that the schema has no fields for."""


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="centrifuge.proto", package="c", syntax="proto3")
    for line in SCHEMA.replace("\n ", " ").strip().splitlines():
        name, _, fields = line.partition(":")
        described = file.message_type.add(name=name)
        for field in filter(None, fields.strip().split(", ")):
            title, kind, number = field.split()
            bare = kind.lstrip("+*")
            added = described.field.add(name=title, number=int(number), label=_TYPES.LABEL_OPTIONAL)
            if kind[0] in "+*":
                added.label = _TYPES.LABEL_REPEATED
            if kind[0] == "*":
                entry = described.nested_type.add(name=f"{title.title()}Entry".replace("_", ""))
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=_TYPES.LABEL_OPTIONAL, type=_TYPES.TYPE_STRING)
                _typed(entry.field.add(name="value", number=2, label=_TYPES.LABEL_OPTIONAL), bare)
                added.type, added.type_name = _TYPES.TYPE_MESSAGE, f".c.{name}.{entry.name}"
            else:
                _typed(added, bare)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        described.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"c.{described.name}"))
        for described in file.message_type
    }


def _typed(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _TYPES.TYPE_MESSAGE, f".c.{kind}"


CLASSES: Final = _classes()
Command: Final = CLASSES["Command"]
Reply: Final = CLASSES["Reply"]
EmulationRequest: Final = CLASSES["EmulationRequest"]


def length(content: bytes) -> bytes:
    """A length as a varint, by definition rather than by the code under test."""
    size, out = len(content), b""
    while size >= 0x80:
        out, size = out + bytes((size & 0x7F | 0x80,)), size >> 7
    return out + bytes((size,))


def frame(*messages: Any) -> bytes:
    """The frame of some messages: each behind its length."""
    return b"".join(length(raw) + raw for raw in (message.SerializeToString() for message in messages))


def replies(data: bytes) -> list[Any]:
    """The replies of a frame, parsed by Google's library."""
    found: list[Any] = []
    while data:
        size = shift = used = 0
        while True:
            byte = data[used]
            size, shift, used = size | (byte & 0x7F) << shift, shift + 7, used + 1
            if byte < 0x80:
                break
        found.append(Reply.FromString(data[used : used + size]))
        data = data[used + size :]
    return found
