"""Commands by method and result."""

from __future__ import annotations

import msgspec

from narthex.app.command_meter import CommandMeter, clock
from narthex.protocol import codes
from narthex.protocol.commands import RpcRequest, SendRequest
from narthex.protocol.replies import encode_error, encode_reply, error_code
from narthex.protocol.session import ReceivedCommand
from tests.app.test_traffic import ReadMeter


def test_the_code_of_an_error_reply() -> None:
    """It is read from the reply's bytes; `error` in a result is none."""
    assert error_code(encode_error(4_000_000_000, codes.PERMISSION_DENIED)) == "103"
    assert error_code(encode_error(1, codes.ReplyError(404, "not there"))) == "404"
    assert error_code(encode_reply(1, "rpc", {"data": {"error": {"code": 1}}})) == "ok"
    assert error_code(encode_reply(1, "rpc", {"error": {"code": 103}})) == "ok"


def test_methods_are_a_closed_set() -> None:
    """An RPC method that does not exist counts as `other`, whatever the client calls it."""
    meter = ReadMeter()
    commands = CommandMeter(meter, ["echo"])
    for method, reply in (
        ("echo", encode_reply(1, "rpc", {"data": {}})),
        ("echo", encode_error(1, codes.INTERNAL)),
        ("x" * 1000, encode_error(1, codes.METHOD_NOT_FOUND)),
    ):
        command = ReceivedCommand(id=1, name="rpc", request=RpcRequest(method=method))
        commands.ended(command, reply, clock())
    commands.ended(
        ReceivedCommand(id=0, name="send", request=SendRequest(data=msgspec.Raw(b"1"))), None, clock()
    )
    assert meter.read() == {
        ("commands", "rpc:echo", "ok"): 1,
        ("commands", "rpc:echo", "100"): 1,
        ("commands", "other", "104"): 1,
        ("commands", "send", "ok"): 1,
    }
    assert len(meter.observed["command_seconds"]) == 4
