"""Frames become commands, or one clear fault."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narthex.domain.json_depth import json_depth_exceeds
from narthex.protocol.commands import (
    Command,
    ConnectRequest,
    FrameError,
    RpcRequest,
    decode_frame,
    request_of,
)


def test_newline_joined_commands_come_out_in_order() -> None:
    """One frame may hold many commands."""
    commands = decode_frame(
        b'{"id":1,"connect":{"token":"t"}}\n{"id":2,"rpc":{"method":"echo","data":{"a":1}}}\n'
    )
    assert [command.id for command in commands] == [1, 2]
    assert commands[0].connect == ConnectRequest(token="t")
    assert isinstance(commands[1].rpc, RpcRequest)
    assert bytes(commands[1].rpc.data) == b'{"a":1}'


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (b"", "not valid JSON"),
        (b"\n", "an empty frame"),
        (b"{", "not valid JSON"),
        (b"[1]", "not a command"),
        (b'{"id":"x"}', "not a command"),
        (b'{"id":1,"rpc":{"method":5}}', "not a command"),
        (b'{"id":1}\n{', "not valid JSON"),
        (b"[" * 40 + b"]" * 40, "nests deeper than 32"),
        (b"[" * 200_000, "nests deeper than 32"),
    ],
)
def test_what_is_no_command_is_named(frame: bytes, says: str) -> None:
    """Malformed, deep and mistyped frames raise FrameError and nothing else."""
    with pytest.raises(FrameError, match=says):
        decode_frame(frame)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (r"cut \ud83d", "cut \ufffd"),
        (r"\uDE00\ud83d\ude00", "\ufffd😀"),
        (r"\ud83d\ud83d\ude00x\udfff", "\ufffd😀x\ufffd"),
        (r"\\ud83d\ud83d", "\\ud83d\ufffd"),
        (r"\"\ud83d\"", '"\ufffd"'),
    ],
)
def test_half_a_surrogate_pair_is_text(sent: str, read: str) -> None:
    """Browsers send one when a text is cut within an emoji; closing for it would shut its sender out for good."""
    frame = f'{{"id":1,"rpc":{{"method":"echo","data":"{sent}"}}}}'.encode()
    (command,) = decode_frame(frame + b"\n" + frame)[:1]
    assert command.rpc is not None
    assert msgspec.json.decode(command.rpc.data) == read


def test_a_fault_never_repeats_what_was_sent() -> None:
    """The reason goes into a close frame and a log, so it must not contain a value from the client."""
    with pytest.raises(FrameError) as caught:
        decode_frame(b'{"id":1,"connect":{"token":{"secret-value":1}}}')
    assert "secret-value" not in caught.value.reason


def test_two_members_in_one_command_are_refused() -> None:
    """It would be unclear which one the reply answers."""
    (command,) = decode_frame(b'{"id":1,"ping":{},"rpc":{"method":"x"}}')
    with pytest.raises(FrameError, match="two members"):
        request_of(command)


def test_nothing_set_is_a_pong() -> None:
    """`{}` answers a server ping."""
    assert request_of(Command()) is None


@given(
    st.recursive(st.none() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=20)
)
def test_depth_is_counted_as_python_sees_it(value: object) -> None:
    """The scan agrees with a recursive count, brackets inside strings included."""

    def depth(item: object) -> int:
        return 1 + max((depth(child) for child in item), default=0) if isinstance(item, list) else 0

    raw = msgspec.json.encode(value)
    real = depth(value)
    assert json_depth_exceeds(raw, real) is False
    if real:
        assert json_depth_exceeds(raw, real - 1) is True


@pytest.mark.parametrize(
    ("raw", "deep"),
    [
        (b"[" * 33 + b"]" * 33, True),
        (b"[" + b"[]," * 40 + b"1]", False),
        (b'{"a":"' + b"[" * 40 + b'"}', False),
        (b'{"a":"\\\\","b":' + b"[" * 32 + b"]" * 32 + b"}", True),
        (b'{"a":"\\"' + b"[" * 40 + b'"}', False),
        (b"[" * 40, True),
    ],
)
def test_depth_is_of_nesting_outside_strings(raw: bytes, deep: bool) -> None:
    """Flat is not deep, and an escaped quote ends no string."""
    assert json_depth_exceeds(raw, 32) is deep


@given(st.binary(max_size=200))
def test_any_bytes_give_commands_or_a_frame_error(frame: bytes) -> None:
    """No other exception leaves the decoder."""
    try:
        for command in decode_frame(frame):
            request_of(command)
    except FrameError:
        pass
