"""The protobuf wire format: messages of a schema to and from bytes. Sans-IO.

Not here: the schema of the Centrifuge protocol (`protobuf_schema`). Rules: a field that the schema does not name, or
that comes with another wire type, is skipped; the last value of a repeated scalar counts, and repeated sub-messages
merge; a field at its default value is not written, except JSON and sub-messages that are set. Groups, which proto3
does not have, are refused. Decoding raises only `WireFault`.

Hand-written: with Google's library a command costs as much once its fields are copied into the Structs that the
handlers take, and the gateway would need a compiled dependency more (docs/decisions says what was measured).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

_VARINT: Final = 0
_FIXED64: Final = 1
_SIZED: Final = 2
_FIXED32: Final = 5
_PLAIN: Final = 0
_MERGED: Final = 1
_MAP: Final = 2
CUT_OFF: Final = "the message is cut off"
_MAX_TAG: Final = 2**32 - 1
_ONE_BYTE: Final = [bytes((value,)) for value in range(0x80)]


class WireFault(Exception):
    """The bytes are not a message of the schema; the exception's message is plain text for the close frame."""


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        name: the attribute of the value in memory.
        wire: the wire type.
        read: from the field's integer or bytes to the value in memory; gets the merged bytes of a sub-message.
        write: appends the field, with its tag, unless the value need not be written.
        kind: `_PLAIN`; `_MERGED`: a sub-message, of which the bytes of several occurrences are joined; `_MAP`:
            `read` returns one entry.
    """

    name: str
    wire: int
    read: Callable[[Any], Any]
    write: Callable[[list[bytes], bytes, Any], None]
    kind: int = 0


class MessageSchema:
    """A message type: its fields, and the Struct that a decoded one becomes.

    Args:
        fields: by number.
        struct: takes the values of the fields that came; None for a message that is only encoded.
    """

    def __init__(self, fields: Mapping[int, Field], struct: type[msgspec.Struct] | None = None) -> None:
        self._struct = struct
        self._by_tag = {number << 3 | field.wire: field for number, field in fields.items()}
        self._merged = {field.name: field.read for field in fields.values() if field.kind == _MERGED}
        self._written = [
            (field.name, varint(number << 3 | field.wire), field.write) for number, field in fields.items()
        ]

    def encode(self, value: object) -> bytes:
        """The bytes of a Struct or a dict; its members that the schema does not have are left out."""
        parts: list[bytes] = []
        member: Callable[[str], Any] = (
            value.get if isinstance(value, dict) else lambda name: getattr(value, name, None)
        )
        for name, tag, write in self._written:
            write(parts, tag, member(name))
        return b"".join(parts)

    def decode(self, data: bytes) -> Any:
        """The Struct of one message's bytes.

        Raises:
            WireFault: they are not a message of this type.
        """
        values: dict[str, Any] = {}
        merging: dict[str, bytes] = {}
        at, end, by_tag = 0, len(data), self._by_tag
        while at < end:
            tag = data[at]
            at += 1
            if tag >= 0x80:
                tag, at = read_varint(data, at - 1)
            field = by_tag.get(tag)
            if field is None:
                at = _skipped(data, at, tag)
                continue
            name, wire, read, _, kind = field
            size = data[at] if at < end else 0x80
            if size < 0x80:  # most numbers and lengths: half of the time went into the calls
                at += 1
            else:
                size, at = read_varint(data, at)
            if wire == _VARINT:
                values[name] = read(size)
                continue
            if size > end - at:
                raise WireFault(CUT_OFF)
            chunk = data[at : at + size]
            at += size
            if kind == _PLAIN:
                values[name] = read(chunk)
            elif kind == _MAP:
                key, value = read(chunk)
                values.setdefault(name, {})[key] = value
            else:
                merging[name] = merging[name] + chunk if name in merging else chunk
        for name, chunk in merging.items():
            values[name] = self._merged[name](chunk)
        assert self._struct is not None
        return self._struct(**values)


def varint(value: int) -> bytes:
    """An unsigned integer below 2^64, or a negative one as its 64-bit two's complement."""
    if 0 <= value < 0x80:
        return _ONE_BYTE[value]
    value &= 2**64 - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint at `at`, and the place behind it.

    Raises:
        WireFault: it is cut off, or does not fit 64 bits.
    """
    value = shift = 0
    for place in range(at, min(at + 10, len(data))):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if shift == 63 and byte > 1:
                raise WireFault("a number of more than 64 bits")
            return value, place + 1
        shift += 7
    raise WireFault("a number of more than 64 bits" if shift == 70 else CUT_OFF)


def sized(content: bytes) -> bytes:
    """Content behind its length: a message in a frame, or a field after its tag."""
    return varint(len(content)) + content


def split_frame(frame: bytes, limit: int) -> list[bytes]:
    """The messages of a frame, each behind its length.

    Raises:
        WireFault: a length reaches beyond the frame, or there are more than `limit` messages.
    """
    found: list[bytes] = []
    at = 0
    while at < len(frame):
        chunk, at = _sized(frame, at)
        found.append(chunk)
        if len(found) > limit:
            raise WireFault(f"more than {limit} commands in a frame")
    return found


def _sized(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = read_varint(data, at)
    if size > len(data) - at:
        raise WireFault(CUT_OFF)
    return data[at : at + size], at + size


def _skipped(data: bytes, at: int, tag: int) -> int:
    """The place behind a field that is not looked at."""
    wire = tag & 7
    if not 8 <= tag <= _MAX_TAG:
        raise WireFault("a field without a number")
    if wire == _VARINT:
        return read_varint(data, at)[1]
    if wire == _SIZED:
        return _sized(data, at)[1]
    if wire not in (_FIXED64, _FIXED32):
        raise WireFault("a field of an unknown wire type")
    at += 8 if wire == _FIXED64 else 4
    if at > len(data):
        raise WireFault(CUT_OFF)
    return at


def _text(chunk: bytes) -> str:
    try:
        return chunk.decode()
    except UnicodeDecodeError as fault:
        raise WireFault("text that is not UTF-8") from fault


def _signed(value: int) -> int:
    value &= 2**32 - 1
    return value - 2**32 if value >= 2**31 else value


def _write_number(parts: list[bytes], tag: bytes, value: Any) -> None:
    if value:
        parts += (tag, varint(value))


def _write_text(parts: list[bytes], tag: bytes, value: Any) -> None:
    if value:
        parts += (tag, sized(value.encode()))


def _write_json(parts: list[bytes], tag: bytes, value: Any) -> None:
    if value is not None:
        parts += (tag, sized(_encode_json(value)))


_encode_json: Final = msgspec.json.Encoder().encode


def number(name: str, bits: int = 64) -> Field:
    """`uint32`, `uint64` or a positive `int64`; more bits than it has are cut off, as every implementation does."""
    mask = 2**bits - 1
    return Field(name, _VARINT, lambda value: value & mask, _write_number)


def signed(name: str) -> Field:
    """`int32`."""
    return Field(name, _VARINT, _signed, _write_number)


def boolean(name: str) -> Field:
    """`bool`."""
    return Field(name, _VARINT, bool, _write_number)


def text(name: str) -> Field:
    """`string`."""
    return Field(name, _SIZED, _text, _write_text)


def json(name: str) -> Field:
    """`bytes` that hold a JSON value. Decoding does not look at them; an empty field is no value."""
    return Field(name, _SIZED, lambda chunk: msgspec.Raw(chunk or b"null"), _write_json)


def binary(name: str) -> Field:
    """`bytes`, as they are."""
    return Field(
        name, _SIZED, bytes, lambda parts, tag, value: parts.extend((tag, sized(value))) if value else None
    )


def message(name: str, kind: MessageSchema) -> Field:
    """A sub-message."""

    def write(parts: list[bytes], tag: bytes, value: Any) -> None:
        if value is not None:
            parts += (tag, sized(kind.encode(value)))

    return Field(name, _SIZED, kind.decode, write, _MERGED)


def messages(name: str, kind: MessageSchema) -> Field:
    """`repeated` sub-messages; only encoded."""

    def write(parts: list[bytes], tag: bytes, values: Any) -> None:
        for value in values or ():
            parts += (tag, sized(kind.encode(value)))

    return Field(name, _SIZED, kind.decode, write)


def mapping(name: str, kind: MessageSchema | None = None) -> Field:
    """`map<string, …>` of sub-messages, or of strings where there is no `kind`."""
    value = text("value") if kind is None else message("value", kind)
    entry = MessageSchema({1: text("key"), 2: value}, _TextEntry if kind is None else _Entry)

    def read(chunk: bytes) -> tuple[str, Any]:
        found = entry.decode(chunk)
        if found.value is None and kind is not None:
            return found.key, kind.decode(b"")
        return found.key, found.value

    def write(parts: list[bytes], tag: bytes, values: Any) -> None:
        for key, item in (values or {}).items():
            parts += (tag, sized(entry.encode({"key": key, "value": item})))

    return Field(name, _SIZED, read, write, _MAP)


class _Entry(msgspec.Struct):
    key: str = ""
    value: Any = None


class _TextEntry(msgspec.Struct):
    key: str = ""
    value: str = ""
