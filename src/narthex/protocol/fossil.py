"""Fossil deltas: a publication as its difference from the one before, in the form that Centrifuge SDKs apply. Sans-IO.

Not here: who gets deltas (`app/hub`), their messages (`broadcast`). The format is that of Fossil SCM
(https://fossil-scm.org/home/doc/tip/www/delta_format.wiki): the target's length, then copies from the source and
literals, then a checksum. Rules: a literal never cuts a UTF-8 character in two, because JSON carries the delta as text;
the work is bounded however alike the two are: where it ends, the rest is literal.

Hand-written: the packages for Python only apply deltas. The events of one run are alike at both ends, so that
comparing there first, in C, leaves few bytes to search for.
"""

from __future__ import annotations

import sys
from array import array
from typing import Final

_DIGITS: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"
_SMALL: Final = [_DIGITS[value : value + 1] for value in range(64)]
_BLOCK: Final = 8  # bytes that a copy must have: a shorter one is no shorter than the literal
_BEHIND: Final = 1_024  # of the source is searched from where the last copy ended …
_AHEAD: Final = 1_024  # … to there: events of one kind have the same members in the same order
_EFFORT: Final = 256  # places looked at, a copy counting for 16: about a millisecond between unlike texts
_COPY_EFFORT: Final = 16
_FIRST_CHUNK: Final = 64
_CHECKSUM: Final = 7  # most bytes of the checksum and its sign


def create_delta(source: bytes, target: bytes) -> bytes | None:
    """The delta that makes `target` of `source`, both UTF-8; None where it saves less than an eighth."""
    head = _equal(source, 0, target, 0, min(len(source), len(target)))
    head = _boundary(target, head)
    parts = [_number(len(target)), b"\n"]
    if head < _BLOCK:
        head = 0
    else:
        _copy(parts, 0, head)
    most = min(len(source), len(target)) - head
    tail = _equal_ends(source, target, most)
    while tail and target[-tail] & 0xC0 == 0x80:
        tail -= 1
    if tail < _BLOCK:
        tail = 0
    end = len(target) - tail
    literal = _search(parts, source, target, head, end)
    if literal < end:
        _literal(parts, target[literal:end])
    if tail:
        _copy(parts, len(source) - tail, tail)
    if sum(map(len, parts)) + _CHECKSUM > len(target) - len(target) // 8:
        return None
    parts += (_number(_checksum(target)), b";")
    return b"".join(parts)


def _search(parts: list[bytes], source: bytes, target: bytes, at: int, end: int) -> int:
    """Append copies and literals for `target[at:end]`; returns the start of the last literal, which is not appended."""
    literal, last, near = at, end - _BLOCK, at
    find, effort = source.find, _EFFORT
    while at <= last and effort > 0:
        place = find(target[at : at + _BLOCK], max(0, near - _BEHIND), near + _AHEAD)
        if place < 0:
            at += 1
            effort -= 1
            continue
        effort -= _COPY_EFFORT
        size = _BLOCK + _equal(source, place + _BLOCK, target, at + _BLOCK, end - at - _BLOCK)
        until = _boundary(target, at + size)
        while at < until and target[at] & 0xC0 == 0x80:
            at += 1
            place += 1
        size = until - at
        if size < _BLOCK:
            at += 1
            continue
        if literal < at:
            _literal(parts, target[literal:at])
        _copy(parts, place, size)
        literal = at = until
        near = place + size
    return literal


def _equal(source: bytes, place: int, target: bytes, at: int, most: int) -> int:
    """The number of equal bytes from two places on, at most `most`."""
    most = min(most, len(source) - place)
    done, chunk = 0, _FIRST_CHUNK
    while done < most:
        size = min(chunk, most - done)
        one = source[place + done : place + done + size]
        other = target[at + done : at + done + size]
        if one != other:
            differs = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
            return done + ((differs & -differs).bit_length() - 1 >> 3)
        done += size
        chunk *= 4
    return done


def _equal_ends(source: bytes, target: bytes, most: int) -> int:
    """The number of equal bytes at the ends, at most `most`."""
    done, chunk = 0, _FIRST_CHUNK
    while done < most:
        size = min(chunk, most - done)
        one = source[len(source) - done - size : len(source) - done]
        other = target[len(target) - done - size : len(target) - done]
        if one != other:
            differs = int.from_bytes(one, "big") ^ int.from_bytes(other, "big")
            return done + ((differs & -differs).bit_length() - 1 >> 3)
        done += size
        chunk *= 4
    return done


def _boundary(target: bytes, at: int) -> int:
    """The last start of a character that is not behind `at`."""
    while 0 < at < len(target) and target[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _copy(parts: list[bytes], place: int, size: int) -> None:
    parts += (_number(size), b"@", _number(place), b",")


def _literal(parts: list[bytes], text: bytes) -> None:
    parts += (_number(len(text)), b":", text)


def _number(value: int) -> bytes:
    if value < 64:
        return _SMALL[value]
    found = bytearray()
    while value:
        found.append(_DIGITS[value & 63])
        value >>= 6
    found.reverse()
    return bytes(found)


def _checksum(data: bytes) -> int:
    """The sum of the big-endian 32-bit words, the last one filled up with zeros."""
    words = array("I", data + bytes(-len(data) % 4))
    if sys.byteorder == "little":
        words.byteswap()
    return sum(words) & 0xFFFFFFFF
