"""The frame reader: RFC 6455 to the letter, compared with the websockets package on any bytes."""

from __future__ import annotations

import logging
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from narthex.adapters.edge.frames import (
    EVENTS_A_READ,
    INVALID_DATA,
    PROTOCOL_ERROR,
    TOO_BIG,
    Event,
    FrameReader,
)
from narthex.adapters.edge.limits import MessageLimits
from narthex.protocol.framing import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
)
from narthex.protocol.framing import deflate as squeeze
from tests.adapters.edge.harness import masked

LIMITS = MessageLimits()
Seen = tuple[list[Event], int | None]


def read(
    data: bytes, cuts: list[int] | None = None, *, limits: MessageLimits = LIMITS, deflate: bool = False
) -> Seen:
    """Events of `data` cut at `cuts`, and the code of the failure, if there is one."""
    reader = FrameReader(limits, deflate=deflate)
    edges = sorted({cut for cut in cuts or [] if 0 < cut < len(data)})
    events: list[Event] = []
    start = 0
    for end in [*edges, len(data)]:
        events += reader.feed(data[start:end])
        while reader.more:
            events += reader.feed(b"")
        start = end
        if reader.failure is not None:
            return events, reader.failure.code
        if events and events[-1][0] == CLOSE:
            break
    return events, None


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_every_length_form(opcode: int, size: int) -> None:
    """7, 16 and 64 bit lengths, at their borders."""
    payload = b"x" * size
    assert read(masked(opcode, payload)) == ([(opcode, payload)], None)
    assert read(masked(opcode, payload), [1, 3, 7, size]) == ([(opcode, payload)], None)


@pytest.mark.parametrize("size", [126, 65_536])
def test_a_length_that_is_cut_behind_another_frame(size: int) -> None:
    """The rest is counted from the frame's own beginning: a short rest does not wait for more."""
    first, second = masked(TEXT, b"x" * 65_536), masked(TEXT, b"y" * size)
    expected = [(TEXT, b"x" * 65_536), (TEXT, b"y" * size)]
    assert read(first + second, [len(first) + 3]) == (expected, None)


@pytest.mark.parametrize("size", [65_537, 1 << 40])
def test_a_frame_that_is_too_big_is_refused_at_its_length(size: int) -> None:
    """As soon as the length is there, before its mask and its payload."""
    assert read(b"\x82\xff" + size.to_bytes(8, "big")) == ([], TOO_BIG)


def test_fragments_with_control_frames_between() -> None:
    """A message in three pieces; a ping between them comes first."""
    data = (
        masked(TEXT, "Gr\u00fc".encode()[:3], final=False)
        + masked(PING, b"p")
        + masked(CONTINUATION, "Gr\u00fc".encode()[3:], final=False)
        + masked(PONG)
        + masked(CONTINUATION, b"n")
        + masked(CLOSE, b"\x03\xe8bye")
        + masked(TEXT, b"ignored")
    )
    expected = [(PING, b"p"), (PONG, b""), (TEXT, "Gr\u00fcn".encode()), (CLOSE, b"\x03\xe8bye")]
    assert read(data) == (expected, None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x00", PROTOCOL_ERROR),  # not masked
        (masked(3), PROTOCOL_ERROR),
        (masked(7), PROTOCOL_ERROR),
        (masked(11), PROTOCOL_ERROR),
        (masked(15), PROTOCOL_ERROR),
        (masked(TEXT, b"a", rsv=0x40), PROTOCOL_ERROR),
        (masked(TEXT, b"a", rsv=0x20), PROTOCOL_ERROR),
        (masked(TEXT, b"a", rsv=0x10), PROTOCOL_ERROR),
        (masked(PING, b"a", final=False), PROTOCOL_ERROR),
        (masked(PING, b"a" * 126), PROTOCOL_ERROR),
        (masked(CLOSE, b"a" * 126), PROTOCOL_ERROR),
        (masked(CONTINUATION, b"a"), PROTOCOL_ERROR),
        (masked(TEXT, b"a", final=False) + masked(TEXT, b"b"), PROTOCOL_ERROR),
        (masked(CLOSE, b"\x03"), PROTOCOL_ERROR),
        (masked(CLOSE, b"\x03\xed"), PROTOCOL_ERROR),  # 1005
        (masked(CLOSE, b"\x00\x00"), PROTOCOL_ERROR),
        (masked(CLOSE, b"\x13\x88"), PROTOCOL_ERROR),  # 5000
        (masked(CLOSE, b"\x03\xe8\xff"), INVALID_DATA),
        (masked(TEXT, b"\xff"), INVALID_DATA),
        (masked(TEXT, b"\xed\xa0\x80"), INVALID_DATA),  # a surrogate
        (masked(TEXT, b"\xce", final=False) + masked(CONTINUATION), INVALID_DATA),
        (b"\x81\xfe\x00\x05\0\0\0\0hello", PROTOCOL_ERROR),  # 16 bits for 5
        (b"\x81\xff\0\0\0\0\0\0\x01\x00\0\0\0\0", PROTOCOL_ERROR),  # 64 bits for 256
        (b"\x82\xff\x80\0\0\0\0\0\0\0\0\0\0\0", PROTOCOL_ERROR),  # the top bit
        (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", TOO_BIG),
        (masked(BINARY, b"x" * (LIMITS.message_bytes + 1)), TOO_BIG),
    ],
)
def test_each_violation_has_its_code(data: bytes, code: int) -> None:
    """1002 for the protocol, 1007 for text, 1009 for size; nothing is delivered."""
    events, failure = read(data)
    assert failure == code
    assert [event for event in events if event[0] != PING] == []


def test_text_fails_as_soon_as_it_is_wrong() -> None:
    """A wrong byte in a first fragment is not waited out."""
    assert read(masked(TEXT, b"ok\xff", final=False)) == ([], INVALID_DATA)


def test_size_is_judged_on_the_header() -> None:
    """A declared length past the limit fails before one byte of it arrived."""
    assert read(b"\x82\xff\x00\x00\x00\x00\x01\x00\x00\x00") == ([], TOO_BIG)
    first = masked(BINARY, b"x" * 60_000, final=False)
    assert read(first + masked(CONTINUATION, b"y" * 5_537)[:4]) == ([], TOO_BIG)


@pytest.mark.parametrize("payload", [b"", b"x"])
def test_fragments_are_counted_even_when_empty(payload: bytes) -> None:
    """1,024 pass, the 1,025th fails, in one read as in many."""
    start, more = masked(BINARY, payload, final=False), masked(CONTINUATION, payload, final=False)
    last = masked(CONTINUATION, payload)
    assert read(start + more * 1022 + last)[0] == [(BINARY, payload * 1024)]
    assert read(start + more * 1023 + last) == ([], TOO_BIG)
    assert read(start + more * 40_000) == ([], TOO_BIG)
    assert read(start + more * 1024, list(range(0, 8000, 7))) == ([], TOO_BIG)


def test_one_read_gives_a_slice_of_events_at_a_time() -> None:
    """A read full of empty messages does not block the loop: the rest is returned on request."""
    reader = FrameReader(LIMITS)
    assert len(reader.feed(masked(TEXT) * 1300)) == EVENTS_A_READ
    assert reader.more
    assert len(reader.feed(b"")) == EVENTS_A_READ
    assert len(reader.feed(masked(PING))) == 1300 - 2 * EVENTS_A_READ + 1
    assert not reader.more


def test_compressed_messages() -> None:
    """RSV1 where it was agreed: whole, in fragments, and never on a continuation or a control frame."""
    text = ("compress me " * 50).encode()
    packed = squeeze(text)
    assert read(masked(TEXT, packed, rsv=0x40), deflate=True) == ([(TEXT, text)], None)
    halves = masked(TEXT, packed[:9], final=False, rsv=0x40) + masked(CONTINUATION, packed[9:])
    assert read(halves, deflate=True) == ([(TEXT, text)], None)
    wrong = masked(TEXT, packed[:9], final=False, rsv=0x40) + masked(CONTINUATION, packed[9:], rsv=0x40)
    assert read(wrong, deflate=True) == ([], PROTOCOL_ERROR)
    assert read(masked(PING, b"a", rsv=0x40), deflate=True) == ([], PROTOCOL_ERROR)
    assert read(masked(TEXT, b"\xff\xff\xff", rsv=0x40), deflate=True) == ([], PROTOCOL_ERROR)
    assert read(masked(TEXT, squeeze(b"\xff" * 300), rsv=0x40), deflate=True) == ([], INVALID_DATA)


def test_inflated_sizes_are_bounded() -> None:
    """Ten times the wire size, at most 1 MB; within a plain message's size the ratio does not matter."""
    fits = bytes(LIMITS.message_bytes)
    assert read(masked(BINARY, squeeze(fits), rsv=0x40), deflate=True) == ([(BINARY, fits)], None)
    over = bytes(LIMITS.message_bytes + 1)
    assert read(masked(BINARY, squeeze(over), rsv=0x40), deflate=True) == ([], TOO_BIG)
    machine = zlib.compressobj(wbits=-15)
    bomb = machine.compress(bytes(50 << 20)) + machine.flush(zlib.Z_SYNC_FLUSH)
    assert len(bomb) < LIMITS.message_bytes
    assert read(masked(BINARY, bomb[:-4], rsv=0x40), deflate=True) == ([], TOO_BIG)


# Any bytes: ours against websockets'.

PAYLOADS = st.one_of(st.binary(max_size=8), st.text(max_size=4).map(str.encode), st.just(b"x" * 130))
FRAMES = st.builds(
    lambda opcode, payload, final, rsv: masked(opcode, payload, final=final, rsv=rsv),
    st.sampled_from([0, 0, 0, 1, 1, 2, 2, 8, 9, 10, 3, 11]),
    PAYLOADS,
    st.sampled_from([True, True, False]),
    st.sampled_from([0] * 9 + [0x40, 0x20]),
)
STREAMS = st.lists(FRAMES, max_size=8).map(b"".join)
CUTS = st.lists(st.integers(1, 400), max_size=10)


def oracle(data: bytes, *, deflate: bool) -> Seen:
    """The websockets package's result for the same bytes, as whole messages."""
    logger = logging.getLogger("tests.oracle")
    protocol = Protocol(SERVER, state=OPEN, max_size=LIMITS.message_bytes, logger=logger)
    if deflate:
        protocol.extensions = [PerMessageDeflate(True, True, 15, 15)]
    protocol.receive_data(data)
    events: list[Event] = []
    kind, parts = 0, b""
    for event in protocol.events_received():
        assert isinstance(event, Frame)
        if event.opcode >= Opcode.CLOSE:
            events.append((int(event.opcode), bytes(event.data)))
            continue
        if event.opcode != Opcode.CONT:
            kind, parts = int(event.opcode), b""
        parts += bytes(event.data)
        if kind == TEXT:  # the package leaves text decoding to its caller
            try:
                parts.decode()
            except UnicodeDecodeError as error:
                if event.fin or error.reason != "unexpected end of data":
                    return events, INVALID_DATA
        if event.fin:
            events.append((kind, parts))
    if protocol.close_sent is not None and protocol.parser_exc is not None:
        return events, int(protocol.close_sent.code)
    return events, None


@given(STREAMS, CUTS, st.booleans())
@example(masked(TEXT, b"x", final=False, rsv=0x40) + masked(CLOSE, b"\0\0\xf7"), [], True)
@example(masked(TEXT, b"x" * 130, final=False, rsv=0x40) + masked(9, b""), [], True)
@settings(max_examples=600)
def test_the_same_as_websockets(data: bytes, cuts: list[int], deflate: bool) -> None:
    """Valid and invalid streams give the same messages and the same close code, however they are split."""
    ours = read(data, cuts, deflate=deflate)
    assert ours == read(data, deflate=deflate)
    theirs = oracle(data, deflate=deflate)
    if theirs[1] == PROTOCOL_ERROR and ours[1] in (None, INVALID_DATA):
        # 7.1.5: we accept a close inside a fragmented message, and judge what it holds (its reason may be no UTF-8)
        closed = ours[1] is None and bool(ours[0]) and ours[0][-1][0] == CLOSE
        if closed or ours[1] == INVALID_DATA:
            assert (ours[0][:-1] if closed else ours[0]) == theirs[0]
            return
    if deflate and ours[1] is None and theirs[1] is not None:
        # websockets inflates fragment by fragment; we inflate the whole message, and fail at its end. Control frames
        # that come between are seen by us only.
        known = len(theirs[0])
        assert ours[0][:known] == theirs[0]
        assert all(opcode >= CLOSE for opcode, _ in ours[0][known:])
        assert read(data + b"\x80\x80\0\0\0\0", deflate=True)[1] is not None
        return
    assert ours == theirs


def test_a_broken_compressed_message_fails_at_its_end() -> None:
    """A first fragment that does not inflate is noticed when the message is complete, and not before."""
    first = b'A\x82\x11"3D\x13#'
    assert read(first, deflate=True) == ([], None)
    assert read(first + b"\x80\x80\0\0\0\0", deflate=True)[1] is not None


@given(st.binary(max_size=300), CUTS)
@settings(max_examples=600)
def test_fuzz_arbitrary_bytes(data: bytes, cuts: list[int]) -> None:
    """Any bytes: events or a violation, the same for any split, and only an incomplete frame is kept."""
    assert read(data, cuts) == read(data)
    assert read(data, cuts, deflate=True) == read(data, deflate=True)
